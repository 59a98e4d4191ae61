"""Detection: Faster and Fast R-CNN on single stages and pyramids, on real images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from overfit import build_tiny, load_known_images, overfit_images
from torch import Tensor, nn
from torchvision.ops import box_iou

from pretext.errors import UserError
from transfer.tasks.detection_head import DetectHeadSettings, Detector, PredictedBoxes

SMALL: dict[str, Any] = {
    "anchors": [24.0, 48.0, 96.0, 144.0],
    "channels": 32,
    "width": 128,
    "pooled": 5,
    "sampled": 64,
    "candidates": (300, 200),
    "proposals": (100, 50),
    "rois": 16,
}
RGB = torch.randint(0, 256, (2, 3, 96, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SIZES = [(96, 120), (80, 70)]


def head(**settings: Any) -> DetectHeadSettings:
    return DetectHeadSettings(**{**SMALL, **settings})


def targets() -> list[dict[str, Tensor]]:
    """One image with two objects, one with none and no proposals."""
    two = torch.tensor([[10.0, 20.0, 90.0, 80.0], [30.0, 30.0, 60.0, 60.0]])
    given = torch.tensor([[8.0, 22.0, 88.0, 84.0], [0.0, 0.0, 20.0, 20.0], [30.0, 20.0, 200.0, 60.0]])
    return [
        {"boxes": two, "labels": torch.tensor([0, 19]), "size": torch.tensor(SIZES[0]), "proposals": given},
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "size": torch.tensor(SIZES[1]),
            "proposals": torch.zeros(0, 4),
        },
    ]


def average_precision(found: list[PredictedBoxes], truth: list[dict[str, Tensor]], label: int) -> float | None:
    """The area under precision over recall, at an overlap of one half; None of a class that does not occur."""
    told, objects = [], 0
    for own, known_of in zip(found, truth, strict=True):
        boxes = known_of["boxes"][known_of["labels"] == label]
        objects, free = objects + len(boxes), set(range(len(boxes)))
        for box, score in zip(own.boxes[own.labels == label], own.scores[own.labels == label].tolist(), strict=True):
            overlaps = box_iou(box[None], boxes)[0].tolist()
            best = max(range(len(boxes)), key=overlaps.__getitem__, default=-1)
            right = best in free and overlaps[best] >= 0.5
            free -= {best} if right else set()
            told.append((score, right))
    right = torch.tensor([one[1] for one in sorted(told, reverse=True)], dtype=torch.float64)
    precision = right.cumsum(0) / torch.arange(1, len(right) + 1)
    highest = precision.flip(0).cummax(0).values.flip(0) if len(right) else precision
    return float((highest * right).sum() / objects) if objects else None


@pytest.mark.slow
def test_over_fits_real_images(shared_data: Path) -> None:
    images = load_known_images(shared_data, 16, 96)
    network = Detector(build_tiny(), 20, head(neck="conv5", rois=32, width=256))
    losses = overfit_images(network, lambda: network.loss(images.rgb, images.targets), 80, 2e-3)
    assert losses[-1] < 0.6 < 3 < losses[0]
    with torch.inference_mode():
        found = network.predict(images.rgb, torch.stack([target["size"] for target in images.targets]))
    scores = [average_precision(found, images.targets, label) for label in range(20)]
    there = torch.tensor([score for score in scores if score is not None])
    assert len(there) > 5 and float(there.mean()) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tiny", {"neck": "conv5"}),
        ("tiny", {"neck": "fpn"}),
        ("tiny", {"neck": "conv3+conv5", "anchors": [16.0, 64.0, 128.0]}),
        ("tiny", {"neck": "conv5", "form": "fast"}),
        ("tiny", {"neck": "fpn", "form": "fast"}),
        ("tiny", {"neck": "conv4", "box": "stage"}),
        ("alexnet", {"neck": "conv5"}),
        ("resnet18", {"neck": "fpn", "anchors": [16.0, 32.0, 64.0, 96.0, 128.0]}),
        ("resnet18", {"neck": "layer3", "box": "stage", "pooled": 14}),
        ("vit_tiny_patch16_224", {"neck": "blocks_11"}),
    ],
)
def test_forms(name: str, settings: dict[str, Any]) -> None:
    network = Detector(build_tiny(name), 20, head(**settings))
    assert {own.split(".")[0] for own, _ in network.named_parameters()} == {"features", "head"}
    rgb = RGB if "vit" not in name else RGB[:, :, :, :112]
    known_of = targets()
    # Where a processor emulates bfloat16, the other networks would take half a minute each.
    with torch.autocast("cpu", torch.bfloat16, enabled=name == "tiny"):
        losses = network.losses(rgb, known_of)
    assert len(losses) == (2 if settings.get("form") == "fast" else 4)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for own, weight in network.named_parameters():
        seen = weight.grad is not None and bool(weight.grad.isfinite().all())
        # What lies behind the stages that are used learns nothing.
        assert seen or (own.startswith("features") and weight.grad is None), own
    first = next(weight for own, weight in network.named_parameters() if own.startswith("features"))
    assert first.grad is not None and first.grad.any(), "the gradient reaches the first layer"
    network.eval()
    given = [one["proposals"] for one in known_of] if "form" in settings else None
    network.head["boxes"].score_thresh = 0.0  # type: ignore[union-attr]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=name == "tiny"):
        found = network.predict(rgb, SIZES, given)
    for (boxes, scores, labels), (height, width) in zip(found, SIZES, strict=True):
        assert boxes.dtype == scores.dtype == torch.float32 and labels.dtype == torch.int64
        assert 0 < len(boxes) == len(scores) == len(labels) <= 100
        assert boxes.min() >= 0 and boxes[:, 2].max() <= width and boxes[:, 3].max() <= height
        assert (scores[:-1] >= scores[1:]).all() and labels.min() >= 0 and labels.max() <= 19


def test_no_object_in_any_image() -> None:
    for settings in ({"neck": "conv5"}, {"neck": "conv5", "form": "fast"}, {"neck": "fpn"}):
        network, nothing = Detector(build_tiny(), 20, head(**settings)), targets()[1]
        loss = network.loss(RGB, [nothing, nothing])
        loss.backward()
        assert loss.isfinite() and all(w.grad is None or bool(w.grad.isfinite().all()) for w in network.parameters())


def test_given_proposals_are_what_is_looked_at() -> None:
    known_of = targets()[:1]
    network = Detector(build_tiny(), 20, head(neck="conv5", form="fast", rois=64, least_score=0.3))
    overfit_images(network, lambda: network.loss(RGB[:1], known_of), 40, 2e-3)
    with torch.inference_mode():
        (near,) = network.predict(RGB[:1], SIZES[:1], [known_of[0]["proposals"][:1]])
        (far,) = network.predict(RGB[:1], SIZES[:1], [known_of[0]["proposals"][1:2]])
    assert near.labels.tolist() == [0] and float(box_iou(near.boxes, known_of[0]["boxes"][:1])) > 0.7
    assert len(far.boxes) == 0, "where there is nothing, nothing is found, whatever lies elsewhere"
    with pytest.raises(UserError, match="needs proposals"):
        network.predict(RGB[:1], SIZES[:1])


def test_frozen_features_stay() -> None:
    network = Detector(build_tiny().requires_grad_(False), 20, head(neck="conv5"))
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    overfit_images(network, lambda: network.loss(RGB, targets()), 2, 1e-2)
    changed = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith("head.")}


def test_the_last_stage_looks_at_boxes() -> None:
    features = build_tiny("resnet18")
    stage = {name: weight for name, weight in features.named_parameters() if "layer4" in name}
    network = Detector(features, 20, head(neck="layer3", box="stage", pooled=14))
    moved = {name: weight for name, weight in network.named_parameters() if ".box_head." in name}
    assert {id(weight) for weight in moved.values()} == {id(weight) for weight in stage.values()} and stage
    assert all(name.startswith("head.") for name in moved)
    norms = [
        module
        for name, module in network.named_modules()
        if ".box_head." in name and isinstance(module, nn.BatchNorm2d)
    ]
    assert all(norm.training for norm in norms) and norms
    for weight in moved.values():
        weight.requires_grad_(False)
    assert not any(norm.training for norm in [network.train(), *norms][1:]), "frozen, its statistics stay too"


def test_the_same_numbers_give_the_same_loss() -> None:
    network, found = Detector(build_tiny(), 20, head(neck="fpn")), []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(network.loss(RGB, targets()))
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neck": "conv9"}, "no stage conv9"),
        ({"neck": "conv5+conv3"}, r"growing stride, from 4 on; the backbone has conv1 \(2\)"),
        ({"neck": "conv4+conv5"}, "growing stride"),
        ({"neck": "fpn", "anchors": [32.0] * 5}, r"anchors: 5 sizes for 4 levels"),
        ({"neck": "conv5", "box": "stage"}, "one stage that is not the last: conv1, conv2, conv3, conv4$"),
    ],
)
def test_heads_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Detector(build_tiny(), 20, head(**settings))


def test_a_backbone_without_a_pyramid_or_a_stage_of_maps() -> None:
    with pytest.raises(UserError, match="name one stage to use it alone"):
        Detector(build_tiny("vit_tiny_patch16_224"), 20, head(neck="fpn"))
    with pytest.raises(UserError, match="no chain of the backbone's modules computes blocks_11 from blocks_10"):
        Detector(build_tiny("vit_tiny_patch16_224"), 20, head(neck="blocks_10", box="stage"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("width", 0),
        ("rois", 0),
        ("candidates", (0, 5)),
        ("proposals", (5, -1)),
        ("anchors", []),
        ("anchors", [0.0, 5.0]),
        ("positive", 0.0),
        ("overlap", 1.5),
        ("least_score", 1.0),
        ("least_score", float("nan")),
    ],
)
def test_settings_that_make_no_sense(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"head\.{name} is"):
        head(**{name: value})
