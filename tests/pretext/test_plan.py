"""A plan: its exact numbers against a real run's files, and nothing written."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from small_recipe import settings

from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.run import newest_checkpoint
from pretext.errors import UserError
from pretext.plan import Plan, Throughput, count_bytes, format_duration, plan, plan_lines, size
from pretext.pretrain import pretrain


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds of measuring are for users; here a tenth will do."""
    monkeypatch.setattr("pretext.plan._SECONDS", 0.1)


@pytest.fixture(scope="module")
def planned() -> Plan:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pretext.plan._SECONDS", 0.1)
        return plan(settings())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned") / "run"
    assert not pretrain(folder, settings())
    return folder


def test_the_exact_numbers_are_those_of_a_real_checkpoint(planned: Plan, run: Path) -> None:
    path = newest_checkpoint(run)
    assert path is not None
    state = load_checkpoint(path)
    assert planned.weights == count_bytes(state["model"])
    assert planned.optimizer == count_bytes(state["optimizer"])
    assert planned.average == count_bytes(state["average"])
    assert planned.gradients == 4 * planned.parameters
    # The file also holds names, settings and a ZIP entry a tensor; nothing of the size of weights.
    assert planned.disk.passing == pytest.approx(path.stat().st_size, rel=0.01)
    assert planned.weights + planned.optimizer + planned.average == pytest.approx(planned.disk.passing, rel=0.03)


def test_a_plan_to_learn_labels(tmp_path: Path) -> None:
    asked = settings(method={"name": "supervised"})
    planned = plan(asked)
    assert not pretrain(tmp_path / "run", asked)
    path = newest_checkpoint(tmp_path / "run")
    assert path is not None
    assert planned.disk.passing == pytest.approx(path.stat().st_size, rel=0.01)
    assert "samples" not in dict(planned.disk.parts) and not (tmp_path / "run" / "samples").exists()


def test_the_disk_is_that_of_a_real_run(planned: Plan, run: Path) -> None:
    def taken(pattern: str) -> int:
        return sum(path.stat().st_size for path in run.glob(pattern))

    checkpoints, _, samples, _, mirror = (count for _, count in planned.disk.parts)
    assert checkpoints == pytest.approx(taken("checkpoints/*.pt"), rel=0.01)
    # A sheet's bytes depend on what the network colors, and that changes as it learns; the gray and the
    # original images, two thirds of it, do not.
    assert samples == pytest.approx(taken("samples/*.png"), rel=0.33)
    assert planned.validations == len(list(run.glob("samples/*.png")))
    # The samples once more, and a few records that are not counted, such as each call's versions.
    assert mirror == pytest.approx(taken("tensorboard/*"), rel=0.33)
    assert planned.disk.lasting == pytest.approx(taken("**/*.*"), rel=0.1)


def test_numbers_are_positive_and_fit_together(planned: Plan) -> None:
    for measured in (planned.network, planned.data, planned.both):
        assert 0 < measured.low <= measured.high and measured.laps >= 1
    assert planned.samples == 45 * 8
    assert planned.saves == 6 and planned.validations == 4
    assert 0 <= planned.waiting <= 1
    short, long = planned.seconds
    assert planned.samples / planned.both.high < short <= long
    assert planned.host > planned.weights + planned.gradients + planned.optimizer + planned.average
    assert planned.device is None
    assert planned.workers == 0
    assert planned.held == 40 and planned.images > 0


def test_it_is_printed_without_more_digits_than_are_known(planned: Plan) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    wide = dataclasses.replace(planned, device=2**37, waiting=0.5)
    title, table, *notes = plan_lines(wide)
    console.print(table)
    text = console.export_text()
    assert isinstance(title, str) and title.startswith("tiny on cpu")
    assert "…" not in text and max(map(len, text.splitlines())) <= 100
    for name in ("images", "network only", "data only", "together", "time", "memory", "disk"):
        assert name in text
    assert "moving average" in text and notes


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(images / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    workers = {"workers": 1, "device": "cpu"}
    drawn = plan(settings(data={"source": "images", "holdout": 0}, machine=workers))
    assert sorted(tmp_path.rglob("*")) == before
    assert drawn.workers > 0 and drawn.held == 0 and drawn.images == 12


def test_a_step_that_takes_too_long_is_measured_with_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretext.plan._LONGEST", 0.0)
    drawn = plan(settings())
    assert any("with 4 images, not 8" in note and "estimate" in note for note in drawn.notes)
    training = {"steps": 45, "batch_size": 8, "warmup": 1, "micro_batch": 2}
    drawn = plan(settings(training=training))
    assert any(note == "Steps were measured with 2 images, not 8." for note in drawn.notes)


def test_a_step_that_would_not_fit_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretext.plan.available_memory", lambda device: 0)
    peaks = iter([2**30, 2**31])
    monkeypatch.setattr("pretext.plan._peak_memory", lambda place: next(peaks))
    drawn = plan(settings())
    assert any("not seem to fit into memory" in note for note in drawn.notes)
    assert drawn.host > 2**30


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"data": {"source": "no/such/folder"}}, "no such folder"),
        ({"backbone": {"name": "resnet-81"}}, "resnet-81"),
        ({"machine": {"device": "cuda:99", "workers": 0}}, "cuda:99"),
        ({"objective": {"prior": "none.npy"}}, "none.npy"),
        ({"crop": {"size": 16}, "training": {"steps": 2, "batch_size": 1, "warmup": 1}}, "cannot be computed"),
        ({"online": {"source": "no/labels"}}, "no/labels"),
    ],
)
def test_what_pretrain_would_refuse_is_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        plan(settings(**changed))
    assert "\n" not in str(error.value)


def test_times_and_sizes_are_spoken() -> None:
    assert [format_duration(seconds) for seconds in (0.04, 45.2, 720, 7790, 3600 * 60, 86400 * 282.5)] == [
        "0.0 s", "45 s", "12 min", "2 h 10 min", "2 d 12 h", "282 d",
    ]  # fmt: skip
    assert [size(count) for count in (0, 500, 1_234_567, 12_345_678_901)] == ["0", "0.5 kB", "1.2 MB", "12.3 GB"]


def test_the_limit_is_named(planned: Plan) -> None:
    fast, slow = Throughput(100, 110, 5), Throughput(50, 55, 5)
    assert dataclasses.replace(planned, waiting=0.5).limit.startswith("data loading")
    assert dataclasses.replace(planned, waiting=0, network=fast, both=slow).limit.startswith("the CPU cores")
    assert dataclasses.replace(planned, waiting=0, network=fast, both=fast).limit == "the network"


def test_bytes_of_nested_tensors() -> None:
    nested = {"a": [torch.zeros(3), {"b": torch.zeros(2, dtype=torch.float64)}], "c": 1}
    assert count_bytes(nested) == 3 * 4 + 2 * 8
