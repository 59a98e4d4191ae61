"""The networks of neighboring methods, trained by the same command, with all that holds for the others."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Launcher, TrainedRun

from pretext.disk_usage import pretrain_disk
from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.journal import read_journal
from pretext.engine.run import find_checkpoint, write_evidence
from pretext.errors import UserError
from pretext.methods.colorization import Colorizer
from pretext.plan import plan
from pretext.pretrain import pretrain
from pretext.pretrained import load_pretrained
from pretext.recipe import PretrainSettings, build_network, open_images
from pretext.replay import ReplaySettings, replay
from pretext.settings import settings_from, to_plain
from pretext.weights.exporter import ExportSettings, export

STEPS = 6
METHODS: dict[str, dict[str, Any]] = {
    "l2": {"objective": {"name": "regression"}, "backbone": {"name": "tiny"}},
    "fusion": {
        "backbone": {"name": "fusion", "arguments": {"global_size": 32, "width": 0.05}},
        "objective": {"name": "regression", "stride": 4, "classes_weight": 0.01},
        "training": {"ema": 0.9},
    },
    "autoencoder": {"backbone": {"name": "autoencoder", "arguments": {"width": 0.1}}, "objective": {"name": "plain"}},
    "hints": {
        "backbone": {"name": "siggraph17", "arguments": {"width": 0.1, "mask_center": 0.5}},
        "objective": {"name": "regression", "stride": 1, "bounded": True, "huber": 1.0},
        "hints": {"sampled": True, "whole": 0.2},
    },
    "dense vgg": {
        "backbone": {
            "name": "vgg11",
            "arguments": {"gray": True, "output_stride": 8, "out_indices": [0, 1, 2]},
        },
        "objective": {"stride": 4},
    },
}
FAST = [name for name in METHODS if name != "dense vgg"]


def settings_of(method: str, **more: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, dict[str, Any]] = {
        "data": {"source": "bundled", "holdout": 8},
        "crop": {"size": 32},
        "objective": {"prior_images": 20},
        "training": {"steps": STEPS, "batch_size": 8, "micro_batch": 4, "warmup": 1, "lr": 1e-3, "precision": "fp32"},
        "machine": {"workers": 0, "checkpoint_every": 3, "evaluate_every": 100},
    }
    for changed in (METHODS[method], more):
        for group, own in changed.items():
            values[group] = {**values.get(group, {}), **own}
    return values


def read(values: dict[str, Any]) -> PretrainSettings:
    return settings_from(PretrainSettings, values, "test")


@pytest.fixture(scope="module", params=[*FAST, pytest.param("dense vgg", marks=pytest.mark.slow)])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    run = tmp_path_factory.mktemp("trained") / "run"
    assert not pretrain(run, read(settings_of(request.param)))
    return request.param, run


def test_it_learns_and_colors(trained: tuple[str, Path]) -> None:
    method, run = trained
    assert [step for step, _ in TrainedRun(run).losses] == list(range(1, STEPS + 1))
    [begun, ended] = TrainedRun(run).health
    assert begun["step"] == 0 and ended["step"] == STEPS
    pretrained = load_pretrained(run)
    ab = pretrained.colorizer.colorize(torch.rand(1, 1, 40, 56) * 100)
    assert ab.shape == (1, 2, 40, 56) and bool(ab.isfinite().all())
    assert pretrained.colorizer.class_branch is None, "nothing is colored with it"
    held = load_checkpoint(find_checkpoint(run))
    assert ("class_branch" in held) == (method == "fusion") and "classes" not in held


def test_it_goes_on_to_the_bit(trained: tuple[str, Path], tmp_path: Path) -> None:
    method, run = trained
    again = tmp_path / "run"
    shutil.copytree(run, again)
    (again / "checkpoints" / f"{STEPS:08d}.pt").unlink()
    assert not pretrain(again, read(settings_of(method)))
    TrainedRun(again).same_as(TrainedRun(run))


def test_exported_it_is_the_same(trained: tuple[str, Path], tmp_path: Path) -> None:
    _, run = trained
    export(run, tmp_path / "x.safetensors", ExportSettings())
    mine, theirs = load_pretrained(run), load_pretrained(tmp_path / "x.safetensors")
    lightness = torch.rand(1, 1, 32, 32) * 100
    assert mine.settings == theirs.settings
    assert torch.equal(mine.colorizer.colorize(lightness), theirs.colorizer.colorize(lightness))


def test_its_disk_is_known_before(trained: tuple[str, Path]) -> None:
    method, run = trained
    disk = pretrain_disk(read(settings_of(method)))
    files = sum(path.stat().st_size for path in (run / "checkpoints").iterdir())
    planned = sum(count for name, count in disk.parts if name.startswith(("two checkpoints", "a checkpoint")))
    assert planned == pytest.approx(files, rel=0.02)


def test_a_replayed_step_is_the_step(trained: tuple[str, Path], tmp_path: Path) -> None:
    method, own = trained
    run = tmp_path / "run"
    shutil.copytree(own, run)
    (run / "checkpoints" / f"{STEPS:08d}.pt").unlink()  # what was newest before the step in question
    settings = read(settings_of(method))
    samples = open_images(settings).samples(settings)
    record = next(r for r in read_journal(run) if r["kind"] == "step" and r["step"] == 5)
    folder = write_evidence(
        run, 5, record["loss"], record["gradient_norm"], settings.training, samples, to_plain(settings)
    )
    assert replay(folder, ReplaySettings()).loss == record["loss"]


@pytest.mark.parametrize("method", ["fusion", "hints"])
def test_it_is_planned(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretext.plan._SECONDS", 0.1)
    settings = read(settings_of(method))
    planned = plan(settings)
    classes = open_images(settings).classes
    network = build_network(settings, torch.full((313,), 1 / 313, dtype=torch.float64), classes)
    assert planned.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert dict(planned.disk.parts)["samples"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fusion", "hints"])
def test_two_processes_compute_what_one_does(method: str, launcher: Launcher, tmp_path: Path) -> None:
    values = settings_of(method)
    words = [
        word
        for group, own in values.items()
        for name, value in own.items()
        for word in (f"--{group}.{name}", str(value).lower() if isinstance(value, bool) else str(value))
    ]
    processes = launcher.start_ranks(2, "pretrain", tmp_path / "two", *words)
    assert [process.wait() for process in processes] == [0, 0], processes[0].output
    assert not pretrain(tmp_path / "one", read(values))
    mine, theirs = (dict(TrainedRun(tmp_path / name).losses) for name in ("one", "two"))
    assert mine.keys() == theirs.keys()
    for step, loss in mine.items():
        assert theirs[step] == pytest.approx(loss, rel=2e-4), step


def test_hints_belong_to_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert not pretrain(run, read(settings_of("hints")))
    with pytest.raises(UserError, match=r"hints.sampled was True, is now False"):
        pretrain(run, read(settings_of("hints", hints={"sampled": False})))


def test_class_branch_needs_labels(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(3):
        from pretext.data import Bundled

        Bundled("train").read(index).save(folder / f"{index}.png")
    with pytest.raises(UserError, match=str(folder)):
        pretrain(tmp_path / "run", read(settings_of("fusion", data={"source": str(folder)})))


def test_the_class_branch_names_the_classes_of_the_source() -> None:
    settings = read(settings_of("fusion"))
    images = open_images(settings)
    network = build_network(settings, torch.full((313,), 1 / 313, dtype=torch.float64), images.classes)
    assert isinstance(network, Colorizer) and network.class_branch is not None
    assert network.class_branch.layers[-1].out_features == len(images.classes) > 1
    assert network.class_branch.weight == 0.01
