"""Several processes on one run: what one would compute, in any number, and no one is left waiting."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import Launcher, TrainedRun
from tiers import one_fast
from waits import wait_until

import slurm
from pretext.engine.run import newest_checkpoint
from pretext.engine.signals import ExitStatus
from pretint.cli.submit import make_job
from pretint.commands import COMMANDS

STEPS = 40
# A network without batch statistics; nothing but the order of additions differs.
SETTINGS = {
    "data": {"source": "bundled", "holdout": 16},
    "crop": {"size": 32},
    "backbone": {"name": "test_convnext", "arguments": {"out_indices": [0, 1]}},
    "objective": {"stride": 8, "prior_images": 50},
    "training": {"steps": STEPS, "warmup": 5, "batch_size": 16, "lr": 1e-3, "precision": "fp32"},
    "machine": {"checkpoint_every": 5, "evaluate_every": 1000, "workers": 0},
}
WORDS = [
    word
    for group, values in SETTINGS.items()
    for name, value in values.items()
    for word in (f"--{group}.{name}", str(value))
]


@pytest.fixture(scope="module")
def alone(launcher: Launcher, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    run = tmp_path_factory.mktemp("alone") / "run"
    process = launcher.start("pretrain", run, *WORDS)
    assert process.wait() == 0, process.output
    return TrainedRun(run)


def close(some: TrainedRun, others: TrainedRun, steps: range, tolerance: float) -> None:
    mine, theirs = dict(some.losses), dict(others.losses)
    for step in steps:
        assert mine[step] == pytest.approx(theirs[step], abs=tolerance), step


def test_two_processes_compute_what_one_does(launcher: Launcher, alone: TrainedRun, tmp_path: Path) -> None:
    processes = launcher.start_ranks(2, "pretrain", tmp_path / "run", *WORDS)
    assert [process.wait() for process in processes] == [0, 0], processes[0].output
    close(TrainedRun(tmp_path / "run"), alone, range(1, 21), 1e-5)
    assert "report:" in processes[0].output and not processes[1].output, "the first alone speaks"


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [False, True])
def test_with_drop_path_micro_batches_and_a_moving_average(
    recomputed: bool, launcher: Launcher, tmp_path: Path
) -> None:
    more = ["--backbone.name", "test_vit", "--backbone.arguments", "{img_size: 32, drop_path_rate: 0.3}"]
    more += ["--training.micro_batch", "4", "--training.ema", "0.9", "--training.steps", "20"]
    more += ["--machine.checkpoint_activations", str(recomputed).lower()]
    one = launcher.start("pretrain", tmp_path / "one", *WORDS, *more)
    assert one.wait() == 0, one.output
    two = launcher.start_ranks(2, "pretrain", tmp_path / "two", *WORDS, *more)
    assert [process.wait() for process in two] == [0, 0], two[0].output
    close(TrainedRun(tmp_path / "two"), TrainedRun(tmp_path / "one"), range(1, 21), 1e-5)
    mine, theirs = TrainedRun(tmp_path / "two").state, TrainedRun(tmp_path / "one").state
    assert mine.keys() == theirs.keys() and any(name.startswith("average ") for name in mine)


@pytest.mark.slow
def test_from_one_to_two_to_one(launcher: Launcher, alone: TrainedRun, tmp_path: Path) -> None:
    run = tmp_path / "run"
    trained = TrainedRun(run)
    first = launcher.start("pretrain", run, *WORDS, hold_at=10)
    trained.wait_for_step(5, first)
    first.signal(signal.SIGUSR2)
    assert first.wait() == ExitStatus.PREEMPTED, first.output
    one = trained.losses[-1][0]
    two = launcher.start_ranks(2, "pretrain", run, *WORDS, hold_at=one + 13)
    trained.wait_for_step(one + 8, two[0])
    two[1].signal(signal.SIGTERM)  # to one of them: they agree
    assert [process.wait() for process in two] == [ExitStatus.TERMINATED, 0], two[0].output
    both = trained.losses[-1][0]
    last = launcher.start("pretrain", run, *WORDS)
    assert last.wait() == 0, last.output
    assert one < both < STEPS
    assert [step for step, _ in trained.losses] == list(range(1, STEPS + 1))
    assert trained.losses[:one] == alone.losses[:one]
    close(trained, alone, range(one, min(STEPS, both + 20) + 1), 1e-5)


@pytest.mark.slow
def test_two_processes_killed_and_called_again(launcher: Launcher, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert [process.wait() for process in launcher.start_ranks(2, "pretrain", whole, *WORDS)] == [0, 0]
    processes = launcher.start_ranks(2, "pretrain", broken, *WORDS, hold_at=20)
    TrainedRun(broken).wait_for_step(10, processes[0])
    for process in processes:
        process.kill()
    assert [process.wait() for process in processes] == [-signal.SIGKILL] * 2
    assert [process.wait() for process in launcher.start_ranks(2, "pretrain", broken, *WORDS)] == [0, 0]
    TrainedRun(broken).same_as(TrainedRun(whole))

    newest = newest_checkpoint(broken)
    assert newest is not None
    newest.write_bytes(newest.read_bytes()[:-1000])
    processes = launcher.start_ranks(2, "pretrain", broken, *WORDS)
    assert [process.wait() for process in processes] == [0, 0], processes[0].output
    assert "the checkpoint before it, is used" in processes[0].output and not processes[1].output
    TrainedRun(broken).same_as(TrainedRun(whole))


@pytest.mark.parametrize("victim", one_fast(0, [0, 1]))
def test_one_dies_and_the_other_says_so(victim: int, launcher: Launcher, tmp_path: Path) -> None:
    run = tmp_path / "run"
    processes = launcher.start_ranks(2, "pretrain", run, *WORDS, "--training.steps", "100000")
    TrainedRun(run).wait_for_step(5, processes[0])
    processes[victim].kill()
    left = processes[1 - victim]
    assert left.wait() == ExitStatus.PREEMPTED, left.output  # the same call goes on
    assert "another process of this run is gone" in left.output
    processes[victim].wait()


@pytest.mark.slow
def test_a_run_that_others_work_on_is_refused_by_all(launcher: Launcher, tmp_path: Path) -> None:
    run = tmp_path / "run"
    busy = launcher.start("pretrain", run, *WORDS, "--training.steps", "100000")
    TrainedRun(run).wait_for_step(5, busy)
    late = launcher.start_ranks(2, "pretrain", run, *WORDS)
    assert [process.wait() for process in late] == [2, 2]
    assert "another process is working on this run" in late[0].output and not late[1].output
    busy.kill()
    busy.wait()


@pytest.mark.parametrize(
    ("world", "more", "said"),
    [
        (3, [], "training.batch_size is 16: 3 processes cannot share it evenly"),
        (2, ["--training.micro_batch", "16"], "in micro-batches of 16"),
        (2, ["--data.source", "nowhere"], "nowhere: no such folder"),
        (2, ["--online.source", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_shared(world: int, more: list[str], said: str, launcher: Launcher, tmp_path: Path) -> None:
    processes = launcher.start_ranks(world, "pretrain", tmp_path / "run", *WORDS, *more)
    assert [process.wait() for process in processes] == [2] * world
    assert said in processes[0].output and len(processes[0].output.splitlines()) == 1


def test_what_the_first_alone_finds_wrong_it_alone_says(launcher: Launcher, tmp_path: Path) -> None:
    processes = launcher.start_ranks(2, "pretrain", tmp_path / "run", *WORDS, "--online.source", "nowhere")
    assert [process.wait() for process in processes] == [2, 2]
    assert "nowhere: no such folder" in processes[0].output and not processes[1].output


@pytest.mark.slow
def test_bad_images_that_any_of_them_meets_are_listed(launcher: Launcher, tmp_path: Path) -> None:
    from pretext.data import Bundled

    images = tmp_path / "images"
    images.mkdir()
    for index in range(40):
        Bundled("train").read(index * 10).save(images / f"{index:02}.png")
    bad = {f"{index:02}.png" for index in range(3, 40, 7)}
    for name in bad:
        (images / name).write_bytes(b"no image")
    words = [
        "--data.source",
        images,
        "--data.holdout",
        "0",
        "--training.steps",
        "10",
        "--objective.prior_images",
        "9",
    ]
    processes = launcher.start_ranks(2, "pretrain", tmp_path / "run", *WORDS, *words)
    assert [process.wait() for process in processes] == [0, 0], processes[0].output
    assert all(f"{name}: " in processes[0].output for name in bad)


@pytest.mark.slow
def test_the_same_command_under_torchrun(alone: TrainedRun, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    job = ["-m", "pretint", "pretrain", str(tmp_path / "run"), *WORDS, "--training.steps", "20"]
    done = subprocess.run([*command, *job], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(TrainedRun(tmp_path / "run").losses) == 20


@pytest.mark.slow
def test_the_same_job_under_submitit(alone: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = slurm.ClusterSettings(executor="local", tasks_per_node=2, environment={"OMP_NUM_THREADS": "1"})
    call = COMMANDS["pretrain"].parse(["run", *WORDS])
    [sent] = slurm.submit([make_job(call.plain, "run", asked)], tmp_path / "jobs").sent
    wait_until(
        lambda: not slurm.states(tmp_path / "jobs")[0].live, "the job ends", describe=sent.log.read_text, every=0.5
    )
    assert slurm.states(tmp_path / "jobs")[0].word == "complete", sent.log.read_text()
    close(TrainedRun(tmp_path / "run"), alone, range(1, 21), 1e-5)


def test_stray_variables_are_no_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    from pretext.engine import distributed

    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "4")
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank(), distributed.local_world_size()) == (
        0,
        1,
        0,
        1,
    )
