"""Runs on named channels: killed, shared by processes, judged and fine-tuned."""

import signal
from pathlib import Path

import numpy as np
import pytest
from processes import Launcher, TrainedRun

import pretint.cli
from pretext.engine.signals import ExitStatus

STEPS = 16
WORDS = [
    "--data.holdout", "4",
    "--crop.size", "32",
    "--backbone.inputs", "[b, c, d]",
    "--backbone.arguments", "{widths: [8, 8, 16, 16, 16]}",
    "--method.name", "cross_channel",
    "--method.arguments", "{hidden: [a], codes: 12, drop: 0.3}",
    "--objective.neighbors", "4",
    "--training.steps", str(STEPS),
    "--training.warmup", "3",
    "--training.batch_size", "8",
    "--training.lr", "1e-3",
    "--training.precision", "fp32",
    "--machine.workers", "0",
    "--machine.device", "cpu",
    "--machine.checkpoint_every", "4",
    "--machine.evaluate_every", "1000",
]  # fmt: skip


@pytest.fixture
def bands(tmp_path: Path) -> str:
    """Images of four channels in two classes, and a name for both parts."""
    random = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 10)):
        for at in range(count):
            folder = tmp_path / part / "xy"[at % 2]
            folder.mkdir(parents=True, exist_ok=True)
            coarse = random.random((4, 5, 5)).repeat(8, 1).repeat(8, 2)
            np.save(folder / f"{at}.npy", (10000 * coarse).astype(np.uint16))
    return f"channels:a,b,c,d:{tmp_path}"


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_bit(bands: str, launcher: Launcher, tmp_path: Path) -> None:
    words = [*WORDS, "--data.source", f"{bands}/train"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = launcher.start("pretrain", whole, *words)
    assert process.wait() == ExitStatus.COMPLETE, process.output
    process = launcher.start("pretrain", broken, *words, hold_at=9)
    TrainedRun(broken).wait_for_step(5, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL, process.output
    process = launcher.start("pretrain", broken, *words, "--machine.workers", "2")
    assert process.wait() == ExitStatus.COMPLETE, process.output
    TrainedRun(broken).same_as(TrainedRun(whole))


@pytest.mark.slow
def test_two_processes_compute_what_one_does(bands: str, launcher: Launcher, tmp_path: Path) -> None:
    words = [*WORDS, "--data.source", f"{bands}/train", "--training.batch_norm", "synchronized"]
    alone = launcher.start("pretrain", tmp_path / "alone", *words)
    assert alone.wait() == 0, alone.output
    two = launcher.start_ranks(2, "pretrain", tmp_path / "two", *words)
    assert [process.wait() for process in two] == [0, 0], two[0].output
    mine, theirs = (dict(TrainedRun(tmp_path / name).losses) for name in ("two", "alone"))
    assert list(mine) == list(range(1, STEPS + 1)) and mine != theirs
    assert [mine[step] for step in range(1, 9)] == pytest.approx([theirs[step] for step in range(1, 9)], rel=1e-5)


@pytest.mark.slow
def test_it_is_judged_fine_tuned_and_exported(bands: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, sets = str(tmp_path / "run"), ["--train", f"{bands}/train", "--test", f"{bands}/test"]
    online = ["--online.source", f"{bands}/train", "--online.images", "30"]
    assert pretint.cli.main(["pretrain", run, *WORDS, "--data.source", f"{bands}/train", *online]) == 0
    for command in ("probe", "knn", "svm"):
        assert pretint.cli.main([command, run, *sets, "--workers", "0", "--device", "cpu"]) == 0
        assert "random" in capsys.readouterr().out
    small = "--training.steps 4 --training.warmup 1 --training.batch_size 4 --machine.workers 0 --machine.device cpu"
    assert pretint.cli.main(["finetune", "classify", run, *sets, *small.split()]) == 0
    assert pretint.cli.main(["export", run, str(tmp_path / "net.onnx"), "--format", "onnx"]) == 0
    capsys.readouterr()
    swapped = ["--train", f"{bands}/train", "--test", f"{bands}/test".replace("a,b,c,d", "b,a,c,d")]
    for test, message in ((swapped[3], "has the channels a, b, c, d, and"), ("bundled:test", "8-bit sRGB")):
        assert pretint.cli.main(["probe", run, "--train", f"{bands}/train", "--test", test]) == 2
        assert message in capsys.readouterr().err
    wrong = f"channels:p,q,r,s:{tmp_path}"
    assert pretint.cli.main(["probe", run, "--train", f"{wrong}/train", "--test", f"{wrong}/test"]) == 2
    assert "the backbone reads channel b, which is not there" in capsys.readouterr().err
