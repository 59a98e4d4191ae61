"""A killed run goes on as if nothing had happened: the same losses, bit for bit."""

import random
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Launcher, StartedProcess, TrainedRun
from waits import wait_until

from pretext.data import Bundled
from pretext.engine.signals import ENDINGS, ExitStatus

STEPS = 60
SETTINGS = [
    "--data.source", "bundled",
    "--data.holdout", "16",
    "--crop.size", "16",
    "--objective.stride", "4",
    "--objective.prior_images", "50",
    "--training.steps", str(STEPS),
    "--training.warmup", "10",
    "--training.batch_size", "48",  # an epoch is not a whole number of steps
    "--machine.checkpoint_every", "7",
    "--machine.evaluate_every", "25",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images."""
    made = tmp_path_factory.mktemp("folder")
    tiles = Bundled("train")
    for index in range(0, len(tiles), 3):
        tiles.read(index).save(made / f"{index:03}.jpg")
    return made


@pytest.fixture(scope="module")
def shards(folder: Path) -> str:
    """The same in two tar files."""
    images = sorted(folder.iterdir())
    made = folder.with_name("shards")
    made.mkdir()
    for number in (0, 1):
        with tarfile.open(made / f"{number}.tar", "w") as tar:
            for image in images[number::2]:
                tar.add(image, image.name)
    return f"{made}/{{0..1}}.tar"


def finish(launcher: Launcher, run: Path, *more: str) -> TrainedRun:
    """The command to its end."""
    process = launcher.start("pretrain", run, *SETTINGS, *more)
    assert process.wait() == ExitStatus.COMPLETE, process.output
    trained = TrainedRun(run)
    assert [step for step, _ in trained.losses] == list(range(1, STEPS + 1))
    return trained


MORE = ["--training.micro_batch", "12", "--training.ema", "0.9"]


@pytest.fixture(scope="module")
def plain(launcher: Launcher, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    return finish(launcher, tmp_path_factory.mktemp("whole") / "run", "--data.source", str(folder))


@pytest.fixture(scope="module")
def rich(launcher: Launcher, shards: str, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """From shards, with accumulation and a moving average."""
    return finish(launcher, tmp_path_factory.mktemp("whole") / "run", "--data.source", shards, *MORE)


def wait_for(process: StartedProcess, is_true: Callable[[], bool], event: str) -> None:
    def is_true_before_the_end() -> bool:
        assert process.runs(), f"it ended before: {event}\n{process.output}"
        return is_true()

    wait_until(is_true_before_the_end, event, describe=lambda: process.output, every=0.001)


@pytest.mark.slow
def test_killed_again_and_again(launcher: Launcher, rich: TrainedRun, shards: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ["pretrain", run, *SETTINGS, "--data.source", shards, *MORE, "--machine.checkpoint_every", "2"]
    written = run / "checkpoints"
    for kill in range(4):
        reached = max((int(path.stem) for path in written.glob("[0-9]*.pt")), default=0)
        is_writing = kill % 3 == 1  # killed while a checkpoint is being written
        process = launcher.start(*words, hold_at=reached + (1 if is_writing else 4), is_written=not is_writing)
        if is_writing:
            wait_for(process, process.is_stopped, "it writes a checkpoint")
            assert list(written.glob(".*.part"))
        elif kill:  # somewhere after it has gone on for a step or some
            TrainedRun(run).wait_for_step(reached + random.choice((1, 2, 3)), process)
            time.sleep(random.uniform(0, 0.05))
        else:  # before the first checkpoint
            wait_for(process, (run / "settings.yaml").exists, "it has settings")
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.output
    finish(launcher, run, "--data.source", shards, *MORE).same_as(rich)


@pytest.mark.slow
def test_stopped_politely_and_with_other_workers(
    launcher: Launcher, plain: TrainedRun, folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    for number, (asked, workers) in enumerate(((signal.SIGINT, "2"), (signal.SIGTERM, "0"), (signal.SIGUSR2, "1")), 1):
        words = [*SETTINGS, "--data.source", folder, "--machine.workers", workers, "--machine.cache", "0"]
        process = launcher.start("pretrain", run, *words, hold_at=7 * number + 14)
        TrainedRun(run).wait_for_step(7 * number, process)
        process.signal_group(asked)  # as Ctrl-C and Slurm send it
        assert process.wait() == ENDINGS[asked], process.output
        assert "to continue, run: " in process.output
        stopped_at = TrainedRun(run).losses[-1][0]
        newest = max((run / "checkpoints").glob("[0-9]*.pt"))
        assert int(newest.stem) == stopped_at < STEPS, "it saves where it stops"
    finish(launcher, run, "--data.source", str(folder)).same_as(plain)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_workers_that_are_not_forked(
    start: str, launcher: Launcher, rich: TrainedRun, shards: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ["--data.source", shards, *MORE, "--machine.workers", "2", "--machine.worker_start", start]
    for number, asked in enumerate((signal.SIGUSR2, signal.SIGTERM), 1):
        process = launcher.start("pretrain", run, *SETTINGS, *words, hold_at=7 * number + 14)
        TrainedRun(run).wait_for_step(7 * number, process)
        process.signal_group(asked)  # workers, and what Python runs beside them, are in the group too
        assert process.wait() == ENDINGS[asked], process.output
        assert "Traceback" not in process.output and "died" not in process.output
    finish(launcher, run, *words).same_as(rich)


@pytest.mark.slow
def test_a_complete_run_is_left_alone(launcher: Launcher, plain: TrainedRun, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (plain.run / "checkpoints").iterdir()}
    journal = (plain.run / "journal.jsonl").read_bytes()
    finish(launcher, plain.run, "--data.source", str(folder))
    assert {path: path.stat().st_mtime_ns for path in (plain.run / "checkpoints").iterdir()} == before
    assert (plain.run / "journal.jsonl").read_bytes() == journal
