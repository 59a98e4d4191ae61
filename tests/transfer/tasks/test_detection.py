"""Examples of detection: boxes stay on what they were drawn around, whatever happens to the image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from devkits import Marked, write_devkit, write_proposals
from torch import Tensor

from pretext.data.batches import Subset, batches, stream
from pretext.errors import UserError
from transfer.labels.boxes import BoxDataset, open_boxed
from transfer.labels.proposals import open_proposals
from transfer.tasks.detection import DetectionExamples, DetectionSizes, DetectionViews, detection_view

MARKED: dict[str, list[Marked]] = {
    "000001": [("dog", (11, 6, 30, 25), 0)],
    "000002": [("cat", (41, 1, 60, 40), 0)],
    "000003": [("cow", (1, 31, 60, 40), 0)],
    "000004": [("bus", (21, 11, 40, 30), 0)],
}


@pytest.fixture
def boxed(tmp_path: Path) -> BoxDataset:
    """Blue images of 60 x 40 pixels, each with one red box."""
    write_devkit(tmp_path, MARKED)
    return open_boxed(f"voc:2007:train:{tmp_path}", training=True)


def red_box(rgb: Tensor) -> list[float]:
    """The smallest box around what is more red than blue: pixels (3, H, W)."""
    red = (rgb[0] > rgb[2]).numpy()
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("longest", [60, 100, 400])
def test_boxes_stay_on_their_objects(boxed: BoxDataset, flip: float, longest: int) -> None:
    examples = DetectionExamples([boxed], DetectionSizes([20, 33, 60], longest, flip), seed=1)
    seen = set()
    for t in range(40):
        sample = examples[t]
        assert sample.rgb is not None and sample.rgb.dtype == torch.uint8 and sample.skipped == []
        label = sample.label
        assert label.keys() == {"boxes", "labels", "size"} and label["size"].tolist() == list(sample.rgb.shape[1:])
        assert (label["boxes"].dtype, label["labels"].dtype) == (torch.float32, torch.int64)
        assert torch.allclose(label["boxes"][0], torch.tensor(red_box(sample.rgb), dtype=torch.float32), atol=0.51)
        source = boxed.objects(examples.locate(t)[1])
        assert label["labels"].tolist() == source.labels.tolist()
        height, width = sample.rgb.shape[1:]
        if flip == 0:
            exact = source.boxes * np.array([width / 60, height / 40] * 2, np.float32)
            assert np.allclose(label["boxes"].numpy(), exact, atol=1e-5)
        seen.add((height, width))
    full = {20: (20, 30), 33: (33, 50), 60: (60, 90)}
    assert seen == {full[one] if full[one][1] <= longest else (40, 60) for one in full}


def test_half_are_mirrored_and_seeds_differ(boxed: BoxDataset) -> None:
    sizes = DetectionSizes([40], 60, 0.5)
    one, other = (DetectionExamples([boxed], sizes, seed) for seed in (1, 2))
    first = [t for t in range(400) if one.locate(t)[1] == 0]  # whose box is at 10, or at 30 if mirrored
    lefts = [float(one[t].label["boxes"][0, 0]) for t in first]
    assert len(first) == 100 and set(lefts) == {10, 30} and 35 <= lefts.count(30) <= 65
    assert lefts == [float(one[t].label["boxes"][0, 0]) for t in first]
    assert any(one.locate(t) != other.locate(t) for t in range(40))


def test_difficult_objects(tmp_path: Path) -> None:
    write_devkit(tmp_path, {"000001": [("dog", (11, 6, 30, 25), 0), ("cat", (1, 1, 60, 40), 1)]})
    boxed = open_boxed(f"voc:2007:train:{tmp_path}", training=True)
    for difficult, labels in ((False, [11]), (True, [11, 7])):
        examples = DetectionExamples([boxed], DetectionSizes([40], 60, 0, difficult), seed=0)
        assert examples[0].label["labels"].tolist() == labels and len(examples[0].label["boxes"]) == len(labels)


def test_proposals_go_with_the_image(boxed: BoxDataset, tmp_path: Path) -> None:
    write_proposals(tmp_path / "a.npz", {boxed.stem(at): boxed.objects(at).boxes for at in range(4)})
    proposals = open_proposals(str(tmp_path / "a.npz"), boxed)
    part = Subset(boxed, range(1, 4), seed=8)
    examples = DetectionExamples([part], DetectionSizes([20, 30, 50], 90), seed=0, proposals=[proposals])
    for t in range(30):
        label = examples[t].label
        assert torch.equal(label["proposals"], label["boxes"]), "those of the image, through the subset, mirrored too"
    views = DetectionViews(part, 50, 90, proposals)
    for index in range(3):
        want = torch.from_numpy(boxed.objects(part.index(index)).boxes) * views[index].label["scale"]
        assert torch.equal(views[index].label["proposals"], want)


def test_batches_of_images_of_several_sizes(shared_data: Path) -> None:
    boxed = open_boxed(f"voc:2007:trainval:{shared_data / 'voc-mini' / 'VOCdevkit'}", training=True)
    examples = DetectionExamples([boxed], DetectionSizes([96, 128], 160), seed=0)
    alone, workers = (list(batches(examples, 4, 0, 3, count)) for count in (0, 1))
    for batch, same in zip(alone, workers, strict=True):
        assert torch.equal(batch.rgb, same.rgb) and batch.rgb.shape[:2] == (4, 3)
        for image, label, again in zip(batch.rgb, batch.labels, same.labels, strict=True):
            assert all(torch.equal(label[name], again[name]) for name in label)
            height, width = label["size"].tolist()
            assert (image[:, height:] == 128).all() and (image[:, :, width:] == 128).all()
            assert max(height, width) <= 160
            assert len(label["boxes"]) and (label["boxes"][:, 2:] > label["boxes"][:, :2]).all()
            assert (label["boxes"] >= 0).all() and (label["boxes"][:, 2:] <= torch.tensor([width, height]) + 1e-3).all()


def test_views_lead_back_to_the_image(boxed: BoxDataset, tmp_path: Path) -> None:
    views = DetectionViews(boxed, 33, 400)
    (tmp_path / "VOC2007/JPEGImages/000002.jpg").write_bytes(b"torn")
    [batch] = stream(views, range(4), 4, 0)
    assert [int(label["index"]) for label in batch.labels] == [0, 2, 3] and batch.rgb.shape == (3, 3, 33, 50)
    assert [key for key, _ in batch.skipped] == ["JPEGImages/000002.jpg"]
    for rgb, label in zip(batch.rgb, batch.labels, strict=True):
        truth = torch.from_numpy(boxed.objects(int(label["index"])).boxes[0])
        back = torch.tensor(red_box(rgb)) / label["scale"]
        assert torch.allclose(back, truth, atol=0.7) and label["size"].tolist() == [33, 50]
    plain = detection_view(boxed, 0, 40, 1000)
    assert np.array_equal(plain.rgb.permute(1, 2, 0).numpy(), np.asarray(boxed.read(0))) and (plain.scale == 1).all()


@pytest.mark.parametrize(
    "given",
    [{"shorter": []}, {"shorter": [0]}, {"longest": 100}, {"longest": 10**5}, {"flip": 1.5}, {"flip": float("nan")}],
)
def test_settings_that_cannot_be(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"sizes.{next(iter(given))} is "):
        DetectionSizes(**given)  # type: ignore[arg-type]
