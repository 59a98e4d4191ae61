"""Boxes and masks in COCO's JSON, YOLO's text and images of numbers: the same as VOC's, and whatever can be wrong."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devkits import write_devkit
from numpy.typing import NDArray
from own_labels import coco_of, write_coco, write_yolo
from PIL import Image
from pycocotools import mask as reference
from pycocotools.coco import COCO

import pretint.cli
from pretext.data.voc import CLASSES
from pretext.errors import ImageError, UserError
from transfer.labels.boxes import BoxDataset, open_boxed
from transfer.labels.coco import decode_runs
from transfer.labels.formats import polygon_mask
from transfer.labels.maps import boxes_around
from transfer.labels.masks import open_masked
from transfer.metrics.box_ap import BoxAP, Detections


def average_precisions(boxed: BoxDataset) -> list[float]:
    """Of detections that are the same for all sources of these boxes: some right, some moved, some wrong."""
    rng = np.random.default_rng(0)
    found, truth = [], [boxed.objects(index) for index in range(len(boxed))]
    for objects in truth:
        boxes = objects.boxes.astype(np.float64) + rng.normal(0, 8, objects.boxes.shape)
        boxes[:, 2:] = np.maximum(boxes[:, :2], boxes[:, 2:])
        labels = np.where(rng.random(len(boxes)) < 0.8, objects.labels, rng.integers(20, size=len(boxes)))
        found.append((boxes.round().astype(np.float32), rng.random(len(boxes)).astype(np.float32), labels))
    detections = Detections.of(found, truth, len(boxed.classes))
    return [BoxAP(detections, points).value for points in ("11 points", "all points", "COCO")]


def test_the_same_boxes_give_the_same_average_precision(shared_data: Path, tmp_path: Path) -> None:
    devkit = shared_data / "voc-mini" / "VOCdevkit"
    voc = open_boxed(f"voc:2012:val:{devkit}")  # where no object is difficult
    file = write_coco(coco_of(voc), tmp_path / "boxes.json")
    write_yolo(voc, tmp_path / "images")
    coco = open_boxed(f"coco:{file}:{devkit / 'VOC2012'}")
    yolo = open_boxed(f"yolo:{tmp_path / 'images'}")
    expected = average_precisions(voc)
    assert 0.1 < expected[2] < expected[1] < 0.9
    for other in (coco, yolo):
        assert other.classes == voc.classes and len(other) == len(voc) and not other.problems
        at = {other.stem(index): index for index in range(len(other))}
        same = [at[voc.stem(index)] for index in range(len(voc))]
        for index, position in enumerate(same):
            ours, theirs = other.objects(position), voc.objects(index)
            assert np.abs(ours.boxes - theirs.boxes).max(initial=0) < 1e-4
            assert np.array_equal(ours.labels, theirs.labels) and np.array_equal(ours.difficult, theirs.difficult)
        assert average_precisions(_Ordered(other, same)) == pytest.approx(expected, abs=1e-9)  # type: ignore[arg-type]


class _Ordered:
    """The images of a source in another order."""

    def __init__(self, source: BoxDataset, order: list[int]) -> None:
        self.source, self.order, self.classes = source, order, source.classes

    def __len__(self) -> int:
        return len(self.order)

    def objects(self, index: int) -> Any:
        return self.source.objects(self.order[index])


@pytest.fixture
def annotations(tmp_path: Path) -> dict[str, Any]:
    """Of two images: one with a polygon, a crowd of run lengths and a mask of them, one with nothing."""
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (60, 40)).save(tmp_path / "photos" / f"{name}.png")
    rng = np.random.default_rng(0)
    blob = np.zeros((40, 60), np.uint8)
    blob[10:30, 20:50] = rng.random((20, 30)) < 0.7
    crowd = np.zeros((40, 60), np.uint8)
    crowd[30:, :10] = 1
    runs = reference.encode(np.asfortranarray(blob))["counts"].decode()
    flat = crowd.T.ravel()
    starts = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *starts, len(flat)]).tolist()
    polygon = [5.5, 4.25, 30.0, 6.0, 26.0, 31.5, 12.0, 22.0]
    return {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 4, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 4, "bbox": [20, 10, 30, 20], "area": 420, "iscrowd": 0,
             "segmentation": {"size": [40, 60], "counts": runs}},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [5.5, 4.25, 24.5, 27.25], "area": 90.0, "iscrowd": 0,
             "segmentation": [polygon]},
            {"id": 3, "image_id": 7, "category_id": 1, "bbox": [0, 30, 10, 10], "area": 100, "iscrowd": 1,
             "segmentation": {"size": [40, 60], "counts": counts}},
        ],
    }  # fmt: skip


def test_masks_of_coco_are_those_of_its_own_tools(annotations: dict[str, Any], tmp_path: Path) -> None:
    whole = copy.deepcopy(annotations)
    for image in whole["images"]:
        image |= {"width": 60, "height": 40}
    tools = COCO(write_coco(whole, tmp_path / "whole.json"))
    blob, polygon, crowd = (tools.annToMask(tools.anns[number]).astype(bool) for number in (1, 2, 3))
    masked = open_masked(f"coco:{write_coco(annotations, tmp_path / 'x.json')}:{tmp_path / 'photos'}")
    assert masked.classes == ["background", "dog", "cat"], "in the order of their ids"
    mask, empty = masked.mask(0), masked.mask(1)
    assert not empty.any() and masked.problems == [("x.json", "1 crowds: they teach nothing, and do not count")]
    assert np.array_equal(mask == 255, crowd)
    assert np.array_equal(mask == 2, blob & (mask != 1)), "the smaller is above"
    assert ((mask == 1) != polygon).sum() <= 4, "its own tools round corners to fifths of a pixel"
    boxed = open_boxed(f"coco:{tmp_path / 'x.json'}:{tmp_path / 'photos'}")
    assert boxed.objects(0).boxes.tolist() == [[20, 10, 50, 30], [5.5, 4.25, 30, 31.5], [0, 30, 10, 40]]
    assert boxed.objects(0).labels.tolist() == [1, 0, 0] and boxed.objects(0).difficult.tolist() == [False, False, True]
    training = open_boxed(f"coco:{tmp_path / 'x.json'}:{tmp_path / 'photos'}", training=True)
    assert len(training) == 1 and training.problems[-1] == ("b.png", "no object: the image is left out of training")


@pytest.mark.parametrize("corners", [3, 4, 9])
def test_a_polygon_has_the_pixels_whose_centers_are_in_it(corners: int) -> None:
    rng = np.random.default_rng(corners)
    for _ in range(20):
        points = rng.uniform(-9, 49, (corners, 2))  # partly outside; with many corners it crosses itself
        centers = np.stack(np.meshgrid(np.arange(40) + 0.5, np.arange(30) + 0.5), -1).reshape(-1, 2)
        turns = np.zeros(len(centers), int)  # how often a ray to the right crosses the border
        for (x, y), (next_x, next_y) in zip(points, np.roll(points, -1, 0), strict=True):
            for at, (right, down) in enumerate(centers):
                if (y > down) != (next_y > down):
                    turns[at] += right < x + (down - y) / (next_y - y) * (next_x - x)
        assert np.array_equal(polygon_mask(points.ravel().tolist(), 30, 40).ravel(), turns % 2 == 1)


def test_run_lengths(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for share in (0, 0.01, 0.5, 0.99, 1):
        mask = (rng.random((33, 71)) < share).astype(np.uint8)
        encoded = reference.encode(np.asfortranarray(mask))["counts"].decode()
        assert np.array_equal(decode_runs(encoded, 33, 71), mask.astype(bool))
    for damaged in (encoded[:-1] + "~", encoded + "1", "é", [3, 4.5], [-1, 34 * 71], [1, 2]):
        with pytest.raises(ValueError):
            decode_runs(damaged, 33, 71)  # type: ignore[arg-type]


Change = Callable[[dict[str, Any]], Any]

BAD: dict[str, tuple[Change, str]] = {
    "no images": (lambda one: one.pop("images"), "has no list of images"),
    "empty": (lambda one: one.update(images=[]), "it lists no image"),
    "missing on disk": (lambda one: one["images"].append({"id": 9, "file_name": "c.png"}), "1 of 3 images .* c.png"),
    "no id": (lambda one: one["annotations"][1].pop("id"), "annotation number 2 has no id"),
    "doubled id": (lambda one: one["images"][1].update(id=7), "two image entries have the id 7"),
    "doubled annotation": (lambda one: one["annotations"][1].update(id=1), "two annotation entries have the id 1"),
    "unknown image": (lambda one: one["annotations"][0].update(image_id=5), "its image_id, 5, is not listed"),
    "unknown class": (lambda one: one["annotations"][0].pop("category_id"), "its category_id, None, is not listed"),
    "a list as id": (lambda one: one["annotations"][0].update(image_id=[7]), "is not listed"),
    "no name": (lambda one: one["images"][0].update(file_name=3), "file_name is missing or no text"),
    "same file": (lambda one: one["images"][1].update(file_name="a.png"), "two images have one file_name"),
    "same class": (lambda one: one["categories"][1].update(name="cat"), "two categories are called cat"),
    "a box of three": (lambda one: one["annotations"][0].update(bbox=[1, 2, 3]), "not 4 numbers"),
    "far away": (lambda one: one["annotations"][0].update(bbox=[1, 2, 3, 10**400]), "not 4 numbers"),
    "no number": (lambda one: one["annotations"][0].update(bbox=[1, 2, 3, float("nan")]), "not 4 numbers"),
}


@pytest.mark.parametrize("what", BAD)
def test_annotations_of_coco_that_are_refused(what: str, annotations: dict[str, Any], tmp_path: Path) -> None:
    change, message = BAD[what]
    change(annotations)
    with pytest.raises(UserError, match=message) as error:
        open_boxed(f"coco:{write_coco(annotations, tmp_path / 'x.json')}:{tmp_path / 'photos'}")
    assert "\n" not in str(error.value) and "x.json" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 100_000, b"\xff\xfe", b'{"images": 3}'])
def test_files_that_are_not_cocos(content: bytes, annotations: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match=r"x.json: (no JSON|has no list of images)"):
        open_boxed(f"coco:{tmp_path / 'x.json'}:{tmp_path / 'photos'}")


def test_shapes_of_coco_that_cannot_be_drawn(annotations: dict[str, Any], tmp_path: Path) -> None:
    name = f"coco:{tmp_path / 'x.json'}:{tmp_path / 'photos'}"
    first, second = annotations["annotations"][:2]
    for shape, reason in (
        ([[1, 2, 3, 4]], "a polygon has 2 points"),
        ([[1, 2, 3]], "no list of pairs"),
        ([], "it has no segmentation"),
        (None, "it has no segmentation"),
        ([[1, 2, 3, 4, 5, float("inf")]], "no place in an image"),
        ([[1e308, 0, -1e308, 5, 9, 9]], "no place in an image"),
        ([[1, 2, 3, 4, 5, 10**400]], "no place in an image"),
        ({"counts": [3]}, "no size or no counts"),
    ):
        second["segmentation"] = shape
        write_coco(annotations, tmp_path / "x.json")
        masked = open_masked(name)
        assert any(reason in problem and "annotation 2" in problem for _, problem in masked.problems)
        assert not (masked.mask(0) == 1).any()
    del first["area"], second["area"]
    first["bbox"], second["bbox"] = ["wide", 1, 2, 3], [0, 0, 10**400, 1]  # only the order of drawing needs them
    write_coco(annotations, tmp_path / "x.json")
    assert (open_masked(name).mask(0) == 2).any()
    first["segmentation"]["size"] = [60, 40]
    write_coco(annotations, tmp_path / "x.json")
    with pytest.raises(ImageError, match=r"a.png: a mask of run lengths has the size \[40, 60\], the image \[60, 40\]"):
        open_masked(name).mask(0)
    first["segmentation"] = {"size": [40, 60], "counts": [3, 4]}
    write_coco(annotations, tmp_path / "x.json")
    with pytest.raises(ImageError, match="its run lengths are damaged: they make 7 pixels of 2400"):
        open_masked(name).mask(0)


def test_annotations_of_another_size(annotations: dict[str, Any], tmp_path: Path) -> None:
    name = f"coco:{tmp_path / 'x.json'}:{tmp_path / 'photos'}"
    annotations["images"][1] |= {"width": 60, "height": 40}
    annotations["images"][0] |= {"width": 120, "height": 80}
    write_coco(annotations, tmp_path / "x.json")
    problem = "the image has 60 x 40 pixels, and its annotation is of one of 120 x 80"
    boxed = open_boxed(name)
    assert len(boxed) == 1 and boxed.problems[-1] == ("a.png", f"{problem}: left out")
    with pytest.raises(ImageError, match=f"a.png: {problem}"):
        open_masked(name).mask(0)
    annotations["images"][1:] = []
    write_coco(annotations, tmp_path / "x.json")
    with pytest.raises(UserError, match=r"has an object to learn from \(a.png: the image has 60 x 40"):
        open_boxed(name)


def test_sources_go_to_other_processes(annotations: dict[str, Any], shared_data: Path, tmp_path: Path) -> None:
    """Where workers are not forked, a source is sent to them."""
    write_coco(annotations, tmp_path / "x.json")
    (tmp_path / "photos" / "a.txt").write_text("0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75")
    (tmp_path / "photos" / "classes.txt").write_text("cat")
    draw(np.ones((40, 60), np.uint16), tmp_path / "maps" / "a.png")
    draw(np.ones((40, 60), np.uint8), tmp_path / "masks" / "a.png")
    (tmp_path / "masks" / "classes.txt").write_text("none\ncat")
    photos = tmp_path / "photos"
    for name in (
        f"coco:{tmp_path / 'x.json'}:{photos}",
        f"yolo:{photos}",
        f"masks:{photos}:{tmp_path / 'masks'}",
        f"instances:{photos}:{tmp_path / 'maps'}",
        f"voc:2012:val:{shared_data / 'voc-mini' / 'VOCdevkit'}",
    ):
        source = open_masked(name)
        again = pickle.loads(pickle.dumps(source))
        assert source.mask(0).any() and np.array_equal(again.mask(0), source.mask(0))
        assert again.masks_digest() == source.masks_digest()


def test_polygons_of_yolo(tmp_path: Path) -> None:
    images = tmp_path / "data" / "images" / "train"
    images.mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(images / "a.png")
    Image.new("RGB", (60, 40)).save(images / "b.png")
    labels = tmp_path / "data" / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "a.txt").write_text("\ufeff1 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75\n\n")
    (tmp_path / "data" / "data.yaml").write_text("names: {0: cat, 1: dog}\n")
    masked, boxed = (opener(f"yolo:{images}") for opener in (open_masked, open_boxed))
    assert masked.classes == ["background", "cat", "dog"] and boxed.classes == ["cat", "dog"]
    expected = np.zeros((40, 60), np.uint8)
    expected[10:30, 15:30] = 2
    assert np.array_equal(masked.mask(0), expected) and not masked.mask(1).any()
    assert boxed.objects(0).boxes.tolist() == [[15, 10, 30, 30]] and len(boxed.objects(1).labels) == 0
    (tmp_path / "data" / "data.yaml").write_text("names: cat\n")
    with pytest.raises(UserError, match=r"data.yaml: has no list of names \(names is 'cat'\)"):
        open_boxed(f"yolo:{images}")
    (tmp_path / "data" / "data.yaml").unlink()
    (images / "classes.txt").write_text("cat\ndog\n")
    assert open_boxed(f"yolo:{images}").classes == ["cat", "dog"], "beside the images, too"
    (labels / "b.txt").write_text("0 0.5 0.5 0.2 0.2")
    with pytest.raises(UserError, match=r"b.txt has boxes, and masks need polygons"):
        open_masked(f"yolo:{images}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2 0.5 0.5 0.1 0.1", "line 1: class 2 of 2"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 of 2"),
        ("0 0.5 0.5 0.1", "neither a box nor a polygon"),
        ("0 0.5 0.5 0.1 nan", "neither a box nor a polygon"),
        ("0 1e308 0.5 -1e308 0.1 0 0", "neither a box nor a polygon"),
        ("cat 0.5 0.5 0.1 0.1", "no class with numbers"),
        ("0.5 0.5 0.5 0.1 0.1", "no class with numbers"),
        ("", "no image has an object"),
    ],
)
def test_lines_of_yolo_that_are_refused(line: str, message: str, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text(line)
    with pytest.raises(UserError, match="the names of its classes are missing"):
        open_boxed(f"yolo:{tmp_path}")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(UserError, match=message) as error:
        open_boxed(f"yolo:{tmp_path}")
    assert "\n" not in str(error.value)
    (tmp_path / "classes.txt").write_text("cat\ncat\n")
    with pytest.raises(UserError, match="class cat is there twice"):
        open_boxed(f"yolo:{tmp_path}")


def test_masks_in_folders_are_vocs(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "voc-mini" / "VOCdevkit" / "VOC2012"
    voc = open_masked(f"voc:2012:val:{root.parent}")
    for kind in ("photos", "masks"):
        (tmp_path / kind).mkdir()
    for index in range(20):
        stem = voc.stem(index)
        (tmp_path / "photos" / f"{stem}.jpg").symlink_to(root / "JPEGImages" / f"{stem}.jpg")
        (tmp_path / "masks" / f"{stem}.png").symlink_to(root / "SegmentationClass" / f"{stem}.png")
    name = f"masks:{tmp_path / 'photos'}:{tmp_path / 'masks'}"
    with pytest.raises(UserError, match=r"classes are missing; write them to .*masks.classes.txt"):
        open_masked(name)
    (tmp_path / "classes.txt").write_text("\ufeffbackground\n" + "\n".join(CLASSES) + "\n")
    masked = open_masked(name)
    assert masked.classes == voc.classes and len(masked) == 20 and not masked.problems
    stems = [masked.stem(index) for index in range(20)]
    assert all(np.array_equal(masked.mask(stems.index(voc.stem(at))), voc.mask(at)) for at in range(20))
    (tmp_path / "photos" / f"{stems[0]}.jpg").unlink()
    (tmp_path / "masks" / f"{stems[1]}.png").unlink()
    before, masked = masked.masks_digest(), open_masked(name)
    assert len(masked) == 18 and masked.masks_digest() != before
    assert {reason for _, reason in masked.problems} == {
        "it has no mask: left out",
        "a mask without an image: left out",
    }
    (tmp_path / "classes.txt").write_text("background\nperson\n")
    with pytest.raises(ImageError, match=r"the mask has the value \d+, and classes are 0..1"):
        for at in range(18):
            open_masked(name).mask(at)


def draw(numbers: NDArray[Any], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(numbers).save(file)


def test_maps_of_instances(shared_data: Path, tmp_path: Path) -> None:
    nuclei = shared_data / "nuclei"
    name = f"instances:{nuclei / 'images'}:{nuclei / 'labels'}"
    boxed, masked = open_boxed(name), open_masked(name)
    assert len(boxed) == len(masked) == 100 and boxed.classes == ["object"]
    assert masked.classes == ["background", "object"] and not masked.problems
    for index in (0, 50, 99):
        numbers = np.array(Image.open(nuclei / "labels" / f"{boxed.stem(index)}.png"))
        expected = []
        for number in range(1, numbers.max() + 1):
            rows, columns = np.nonzero(numbers == number)
            if len(rows):
                expected.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert boxed.objects(index).boxes.tolist() == expected
        assert np.array_equal(masked.mask(index), numbers > 0)
    assert boxes_around(np.zeros((3, 4), np.uint16)) == []

    Image.new("RGB", (60, 40)).save(tmp_path / "a.png")
    draw(np.zeros((41, 60), np.uint16), tmp_path / "maps" / "a.png")
    with pytest.raises(ImageError, match="the mask has 60 x 41 pixels, and the image 60 x 40"):
        open_masked(f"instances:{tmp_path}:{tmp_path / 'maps'}").mask(0)
    Image.new("RGB", (60, 40)).save(tmp_path / "maps" / "a.png")
    with pytest.raises(UserError, match="RGB of 2,400 pixels, where a mask has one number a pixel"):
        open_boxed(f"instances:{tmp_path}:{tmp_path / 'maps'}")
    with pytest.raises(UserError, match=r"write instances:IMAGES:MAPS"):
        open_boxed(f"instances:{tmp_path}")
    with pytest.raises(UserError, match="no such folder"):
        open_boxed(f"instances:{tmp_path}:{tmp_path / 'none'}")


def test_sbd_joins_only_voc(tmp_path: Path) -> None:
    write_devkit(tmp_path, {"000001": []})
    with pytest.raises(UserError, match="the masks of SBD are of images of VOC2012"):
        open_masked("masks:a:b", sbd="c")


def test_names_of_images_that_fit_twice(tmp_path: Path) -> None:
    for ending in ("png", "bmp"):
        Image.new("RGB", (60, 40)).save(tmp_path / f"a.{ending}")
    (tmp_path / "x.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(UserError, match=r"a\.\w+ and a\.\w+ have one name"):
        open_boxed(f"yolo:{tmp_path}")


TUNED = ["--training.steps", "4", "--training.warmup", "1", "--training.batch_size", "4", "--machine.workers", "0"]
TUNED += ["--machine.device", "cpu", "--holdout", "0", "--reference", "false"]


@pytest.mark.slow
def test_fine_tuning_on_them(
    tiny_run: Path, shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    devkit = shared_data / "voc-mini" / "VOCdevkit"
    whole = coco_of(open_boxed(f"voc:2012:val:{devkit}"))
    sets = {}
    for part, images in (("train", whole["images"][:12]), ("test", whole["images"][12:24])):
        kept = {image["id"] for image in images}
        annotations = [one for one in whole["annotations"] if one["image_id"] in kept]
        file = write_coco({**whole, "images": images, "annotations": annotations}, tmp_path / f"{part}.json")
        sets[part] = f"coco:{file}:{devkit / 'VOC2012'}"
    recipe = Path(pretint.__file__).parents[1] / "configs" / "transfer" / "laptop_detect.yaml"
    words = ["finetune", "detect", str(tiny_run), "--config", str(recipe), *TUNED, "--size", "64"]
    assert pretint.cli.main([*words, "--train", sets["train"], "--test", sets["test"], "--out", f"{tmp_path}/d"]) == 0
    assert "on 12 test images of coco:" in capsys.readouterr().out
    (tmp_path / "none").mkdir()
    other = write_coco({**whole, "categories": [{"id": 9 * n, "name": f"c{n}"} for n in range(20)],
                        "annotations": []}, tmp_path / "other.json")  # fmt: skip
    assert pretint.cli.main([*words, "--train", sets["train"], "--test", f"coco:{other}:{devkit / 'VOC2012'}"]) == 2
    assert "have different classes: number 0 is aeroplane in the first and c0 in the second" in capsys.readouterr().err

    nuclei = shared_data / "nuclei"
    for part, files in (("train", range(8)), ("test", range(8, 12))):
        for kind in ("images", "labels"):
            folder = tmp_path / part / kind
            folder.mkdir(parents=True)
            names = sorted(file.name for file in (nuclei / kind).iterdir())
            for at in files:
                (folder / names[at]).symlink_to(nuclei / kind / names[at])
    names = [f"instances:{tmp_path / part / 'images'}:{tmp_path / part / 'labels'}" for part in ("train", "test")]
    words = ["finetune", "segment", str(tiny_run), *TUNED, "--crops.size", "64", "--out", f"{tmp_path}/s"]
    assert pretint.cli.main([*words, "--train", names[0], "--test", names[1]]) == 0, capsys.readouterr().err
    assert "on 4 test images of instances:" in capsys.readouterr().out
