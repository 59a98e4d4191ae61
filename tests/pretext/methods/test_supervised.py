"""The supervised reference: labels that stay with their images, and all that holds for any other run."""

import io
import signal
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from processes import Launcher, TrainedRun
from torch.nn import functional as F

from pretext.backbones import build_backbone
from pretext.color import rgb_to_lightness
from pretext.data import Bundled
from pretext.engine.checkpoint import load_checkpoint, save_checkpoint
from pretext.engine.device import ComputeConfig
from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint
from pretext.errors import UserError
from pretext.methods.contract import Ingredients
from pretext.methods.supervised import Supervised
from pretext.pretrain import pretrain
from pretext.pretrained import load_pretrained
from pretext.recipe import PretrainSettings, _shared_classes, build_network, load_held_out, open_images
from pretext.settings import settings_from
from pretext.weights.exporter import ExportSettings, export
from pretint.colorization import ColorizeSettings, colorize
from transfer.report import write_report

PLACE = ComputeConfig(torch.device("cpu"), "fp32", 0)
WORDS = [
    "--data.source", "bundled",
    "--method.name", "supervised", "--data.holdout", "16", "--crop.size", "16", "--objective.stride", "4",
    "--training.steps", "30", "--training.warmup", "5", "--training.batch_size", "48",
    "--machine.checkpoint_every", "7", "--machine.evaluate_every", "10",
]  # fmt: skip


def settings(**changed: Any) -> PretrainSettings:
    values: dict[str, Any] = {
        "data": {"source": "bundled"},
        "crop": {"size": 32},
        "method": {"name": "supervised"},
        "training": {"steps": 2, "batch_size": 4, "warmup": 1},
        "machine": {"workers": 0},
    }
    return settings_from(PretrainSettings, values | changed, "test")


def class_folder(root: Path, *names: str, each: int = 12) -> str:
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(each):
            noise = rng.integers(0, 256, (36, 48, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / name / f"{index:02}.png")
    return str(root)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supervised") / "run"
    assert not pretrain(folder, settings(training={"steps": 4, "batch_size": 8, "warmup": 1, "ema": 0.5}))
    return folder


def build(name: str, **arguments: Any) -> Supervised:
    settings = PretrainSettings()
    parts = Ingredients(
        build_backbone(name, **arguments),
        0,
        settings.objective,
        settings.hints,
        settings.augment,
        None,
        ["a", "b", "c"],
    )
    return Supervised(parts).eval()


def images(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["tiny", "test_vit"])
def test_scores_loss_and_health_by_their_definition(name: str) -> None:
    arguments = {"img_size": 32} if name == "test_vit" else {}
    classifier = build(name, **arguments)
    rgb, labels = images(37), torch.arange(37) % 3
    with torch.inference_mode():
        last = list(classifier.backbone(rgb_to_lightness(rgb)).values())[-1]
        logits = last.mean((2, 3)) @ classifier.head.weight.T + classifier.head.bias
        torch.testing.assert_close(classifier(rgb_to_lightness(rgb)), logits)
        expected = torch.stack([-row.log_softmax(0)[label] for row, label in zip(logits, labels, strict=True)])
        torch.testing.assert_close(classifier.image_losses(rgb, labels, labels), expected)
        torch.testing.assert_close(classifier.loss(rgb, labels, labels), expected.mean())
    health, _ = classifier.diagnostics(rgb, labels, None, PLACE)
    assert health["loss"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert health["accuracy"] == int((logits.argmax(1) == labels).sum()) / 37


def test_scores_are_exact_where_the_backbone_is_not() -> None:
    classifier = build("tiny")
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        lightness = rgb_to_lightness(images(2))
        last = classifier.backbone(lightness)[classifier.backbone.stages[-1].name]
        logits = classifier(lightness)
    assert last.dtype == torch.bfloat16 and logits.dtype == torch.float32
    expected = F.linear(last.float().mean((2, 3)), classifier.head.weight, classifier.head.bias)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)


def test_it_begins_with_the_weights_that_a_colorizer_begins_with() -> None:
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    asked = settings(seed=7)
    mine = build_network(asked, None, ["a", "b"]).backbone.state_dict()
    for name in ("colorization", "simclr"):
        theirs = build_network(settings(seed=7, method={"name": name}), prior).backbone.state_dict()
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_it_sees_what_a_colorizer_sees(tmp_path: Path) -> None:
    source = class_folder(tmp_path / "images", "cat", "dog", "emu")
    labeled, plain = (
        open_images(settings(data={"source": source, "holdout": 3}, method={"name": name}))
        for name in ("supervised", "colorization")
    )
    assert labeled.classes == ["cat", "dog", "emu"] and not plain.classes
    asked = settings(data={"source": source})
    with_labels, without = (found.samples(asked) for found in (labeled, plain))
    for t in range(100):
        one, other = with_labels[t], without[t]
        assert one.rgb is not None and other.rgb is not None and torch.equal(one.rgb, other.rgb)
        part, index = with_labels.locate(t)
        assert labeled.classes[one.label] == with_labels.parts[part].key(index).partition("/")[0]
        assert other.label == -1
    views = load_held_out(labeled, 3, 32)
    assert [labeled.classes[label] for label in views.labels] == [
        labeled.held[0].key(index).partition("/")[0] for index in range(3)
    ]


def test_it_learns(tmp_path: Path) -> None:
    """Which of eight photographs a tile is of, on tiles that are not trained on."""
    training = {"steps": 60, "batch_size": 32, "warmup": 5}
    assert not pretrain(tmp_path / "run", settings(data={"source": "bundled", "holdout": 200}, training=training))
    first, *_, last = (record for record in read_journal(tmp_path / "run") if record["kind"] == "health")
    classes = len(Bundled("train").classes)
    assert first["loss"] == pytest.approx(np.log(classes), abs=0.5)
    assert first["accuracy"] < 3 / classes and last["accuracy"] > 0.4
    assert last["loss"] < first["loss"] / 1.5


def test_a_checkpoint_gives_the_backbone_and_no_colors(run: Path, tmp_path: Path) -> None:
    path = newest_checkpoint(run)
    assert path is not None
    state = load_checkpoint(path)
    assert state["classes"] == Bundled("train").classes and "prior" not in state["color"]
    pretrained = load_pretrained(run)
    assert not pretrained.has_head and pretrained.settings.method.name == "supervised" and pretrained.step == 4
    for name, value in pretrained.colorizer.backbone.state_dict().items():
        assert torch.equal(value, state["average"][f"backbone.{name}"])
    Image.new("RGB", (40, 30)).save(tmp_path / "image.png")
    with pytest.raises(UserError, match="these weights have no color head; they can be evaluated"):
        colorize(run, [tmp_path / "image.png"], ColorizeSettings(out=tmp_path / "out"))


def test_it_is_exported(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    export(run, file, ExportSettings())
    lightness = rgb_to_lightness(images(2))
    before, after = (load_pretrained(model) for model in (run, file))
    assert not after.has_head and after.settings == before.settings
    with torch.inference_mode():
        for one, other in zip(*(each.colorizer.backbone(lightness).values() for each in (before, after)), strict=True):
            assert torch.equal(one, other)
    with pytest.raises(UserError, match="no color head; export their backbone"):
        export(run, tmp_path / "whole.safetensors", ExportSettings(part="colorizer"))


def test_the_report_speaks_of_classes(run: Path) -> None:
    page = write_report(run).read_text(encoding="utf-8")
    assert "learn the classes of images" in page and "whose class is predicted correctly" in page
    assert "cross-entropy over the classes" in page.lower()
    assert all(word not in page for word in ("only predict gray", "color bin", "<h2>Samples</h2>"))


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(launcher: Launcher, tmp_path: Path) -> None:
    words = [*WORDS, "--training.micro_batch", "12", "--training.ema", "0.9"]
    whole = launcher.start("pretrain", tmp_path / "whole", *words, "--machine.workers", "0")
    assert whole.wait() == 0, whole.output
    broken = TrainedRun(tmp_path / "broken")
    process = launcher.start("pretrain", broken.run, *words, hold_at=21)
    broken.wait_for_step(14, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.output
    last = launcher.start("pretrain", broken.run, *words)
    assert last.wait() == 0, last.output
    broken.same_as(TrainedRun(tmp_path / "whole"))
    assert len(broken.losses) == 30 and len(broken.health) == 4


@pytest.mark.slow
def test_two_processes_compute_what_one_does(launcher: Launcher, tmp_path: Path) -> None:
    more = ["--backbone.name", "test_convnext", "--backbone.arguments", "{out_indices: [0, 1]}", "--crop.size", "32"]
    words = [*WORDS, *more, "--training.precision", "fp32", "--machine.workers", "0", "--training.steps", "20"]
    one = launcher.start("pretrain", tmp_path / "one", *words)
    two = launcher.start_ranks(2, "pretrain", tmp_path / "two", *words)
    assert [process.wait() for process in (one, *two)] == [0, 0, 0], one.output + two[0].output
    mine, theirs = (dict(TrainedRun(tmp_path / name).losses) for name in ("one", "two"))
    assert len(mine) == 20 and theirs == pytest.approx(mine, abs=1e-5)


def test_sources_that_name_the_same_classes_are_mixed(tmp_path: Path) -> None:
    mixture = {class_folder(tmp_path / name, "cat", "dog"): 0.5 for name in ("one", "other")}
    assert not pretrain(tmp_path / "run", settings(data={"source": mixture}, backbone={"init": "kmeans"}))


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ([[]], "no sub-folder"),
        ([["cat"]], r"one class only \(cat\); a classifier needs two"),
        ([["cat", "dog"], ["cat", "emu"]], r"hold different classes \(dog, emu\)"),
    ],
)
def test_what_cannot_be_learned_is_one_line(folders: list[list[str]], said: str, tmp_path: Path) -> None:
    for number, names in enumerate(folders):
        class_folder(tmp_path / str(number), *names or [""])
    mixture = {str(tmp_path / str(number)): 1.0 for number in range(len(folders))}
    source = mixture if len(mixture) > 1 else next(iter(mixture))
    with pytest.raises(UserError, match=said) as error:
        pretrain(tmp_path / "run", settings(data={"source": source}))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


class Several:
    """Images with any number of labels each, as VOC has them."""

    classes = ("cat", "dog")
    labels: NDArray[np.int8] = np.array([[1, 0], [1, 1], [0, -1]], np.int8)


def test_several_labels_for_one_image_are_refused() -> None:
    with pytest.raises(UserError, match="voc: an image may have several labels"):
        _shared_classes({"voc": Several()})  # type: ignore[dict-item]


def tar_of(path: Path, labels: list[int]) -> str:
    rng = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for index, label in enumerate(labels):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (36, 48, 3), dtype=np.uint8)).save(buffer, "png")
            for ending, data in (("png", buffer.getvalue()), ("cls", str(label).encode())):
                entry = tarfile.TarInfo(f"{index:03}.{ending}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return str(path)


def test_one_class_of_several_is_one_class(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"one class only \(2\); a classifier needs two"):
        open_images(settings(data={"source": tar_of(tmp_path / "0.tar", [2] * 12)}))


def test_a_run_does_not_go_on_with_other_labels(tmp_path: Path) -> None:
    asked = settings(data={"source": tar_of(tmp_path / "0.tar", [0, 1, 2] * 4)})
    assert not pretrain(tmp_path / "run", asked)
    tar_of(tmp_path / "0.tar", [0, 2, 1] * 4)
    with pytest.raises(UserError, match=r"the labels changed since the run .* began"):
        pretrain(tmp_path / "run", asked)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": None}, "classes missing or wrong"),
        ({"classes": [1, 2]}, "classes missing or wrong"),
        ({"classes": "DROP"}, "do not fit its contents"),
        ({"settings": {"objective": {"name": "plain"}}}, "do not fit its contents"),
    ],
)
def test_a_checkpoint_that_is_not_whole_is_one_line(
    changed: dict[str, Any], said: str, run: Path, tmp_path: Path
) -> None:
    path = newest_checkpoint(run)
    assert path is not None
    state = {name: value for name, value in {**load_checkpoint(path), **changed}.items() if value != "DROP"}
    save_checkpoint(tmp_path / "x.pt", state)
    with pytest.raises(UserError, match=said) as error:
        load_pretrained(tmp_path / "x.pt")
    assert "\n" not in str(error.value)
