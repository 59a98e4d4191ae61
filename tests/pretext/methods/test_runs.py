"""Runs of methods that compare images: killed, continued, shared by processes; and every method in every job."""

import signal
from pathlib import Path

import pytest
from processes import Launcher, TrainedRun
from tiers import one_fast

import pretint.cli
from pretext.engine.journal import read_journal
from pretext.engine.signals import ExitStatus
from pretint.cli.commands import RECIPES

STEPS = 24
WORDS = [
    "--data.source", "bundled",
    "--data.holdout", "16",
    "--crop.size", "32",
    "--backbone.arguments", "{widths: [8, 8, 16, 16, 16]}",
    "--objective.prior_images", "50",
    "--training.steps", str(STEPS),
    "--training.warmup", "5",
    "--training.batch_size", "16",
    "--training.lr", "1e-3",
    "--training.precision", "fp32",
    "--machine.workers", "0",
    "--machine.checkpoint_every", "4",
    "--machine.evaluate_every", "1000",
]  # fmt: skip
METHODS = {
    "simclr": ["--method.name", "simclr"],
    "joined": ["--method.name", "joined", "--backbone.inputs", "rgb", "--method.arguments.color_stage", "conv4"],
    "vicreg": ["--method.name", "vicreg", "--method.arguments.dims", "32"],
}
OTHERS = {
    **METHODS,
    "rotation": ["--method.name", "rotation"],
    "split_brain": ["--method.name", "split_brain", "--backbone.name", "split_brain"],
    "mae": ["--method.name", "mae", "--backbone.name", "test_vit", "--backbone.arguments", "{img_size: 32}"],
}


@pytest.mark.parametrize("name", one_fast("simclr", ["simclr", "joined"]))
def test_killed_runs_go_on_to_the_bit(name: str, launcher: Launcher, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    process = launcher.start("pretrain", whole, *WORDS, *METHODS[name])
    assert process.wait() == ExitStatus.COMPLETE, process.output
    for reached in (5, 14):
        process = launcher.start("pretrain", broken, *WORDS, *METHODS[name], hold_at=reached + 4)
        TrainedRun(broken).wait_for_step(reached, process)
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.output
    process = launcher.start("pretrain", broken, *WORDS, *METHODS[name], "--machine.workers", "2")
    assert process.wait() == ExitStatus.COMPLETE, process.output
    TrainedRun(broken).same_as(TrainedRun(whole))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_from_one_to_two_to_one(name: str, launcher: Launcher, tmp_path: Path) -> None:
    """With batch norm over all processes, two compute what one does, on the same views in the same order."""
    words = [*WORDS, *METHODS[name], "--training.batch_norm", "synchronized"]
    alone = launcher.start("pretrain", tmp_path / "alone", *words)
    assert alone.wait() == 0, alone.output
    run, trained = tmp_path / "run", TrainedRun(tmp_path / "run")
    first = launcher.start("pretrain", run, *words, hold_at=8)
    trained.wait_for_step(4, first)
    first.signal(signal.SIGUSR2)
    assert first.wait() == ExitStatus.PREEMPTED, first.output
    words += ["--machine.evaluate_every", "3"]  # which the first of them does alone
    two = launcher.start_ranks(2, "pretrain", run, *words, hold_at=trained.losses[-1][0] + 8)
    trained.wait_for_step(trained.losses[-1][0] + 4, two[0])
    two[1].signal(signal.SIGTERM)
    assert [process.wait() for process in two] == [ExitStatus.TERMINATED, 0], two[0].output
    last = launcher.start("pretrain", run, *words)
    assert last.wait() == 0, last.output
    mine, theirs = dict(trained.losses), dict(TrainedRun(tmp_path / "alone").losses)
    assert list(mine) == list(range(1, STEPS + 1))
    # Each step amplifies what differs: two orders of adding up. Two processes begin before step 10.
    for steps, tolerance in ((range(1, 13), 1e-5), (range(13, STEPS + 1), 1e-2)):
        assert [mine[step] for step in steps] == pytest.approx([theirs[step] for step in steps], rel=tolerance)
    assert mine != theirs, "two did take part"


@pytest.mark.parametrize("name", one_fast("joined", OTHERS))
def test_every_job_takes_every_method(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Planned, trained with a moving average and an online probe, reported, judged, exported; and not colored."""
    run = tmp_path / "run"
    more = ["--training.steps", "6", "--training.ema", "0.9", "--online.source", "bundled", "--online.images", "60"]
    words = [*WORDS, *OTHERS[name], *more, "--machine.evaluate_every", "3"]
    if name in ("mae", "split_brain"):  # their backbones have other arguments
        at = words.index("--backbone.arguments")
        del words[at : at + 2]
    if name in ("rotation", "mae", "split_brain"):
        words += ["--training.micro_batch", "8"]
    assert pretint.cli.main(["pretrain", str(run), *words]) == 0, capsys.readouterr().err
    records = read_journal(run)
    health = [record for record in records if record["kind"] == "health"]
    assert len(health) == 3 and all(record["loss"] > 0 and record["rankme"] >= 1 for record in health)
    steps = [record for record in records if record["kind"] == "step"]
    parts = {"vicreg": {"invariance", "variance", "covariance"}, "joined": {"contrast", "colors"},
             "split_brain": {"colors", "lightness"}}  # fmt: skip
    assert steps[0].keys() - {"kind", "step", "loss", "lr", "gradient_norm"} == parts.get(name, set())
    assert [record for record in records if record["kind"] == "online"]
    page = (run / "report.html").read_text()
    assert "RankMe" in page and f"{name}" in page and "only predict gray" not in page
    judged = ["--train", "bundled:train", "--test", "bundled:test", "--workers", "0"]
    assert pretint.cli.main(["knn", str(run), *judged, "--reference", "false"]) == 0
    assert pretint.cli.main(["export", str(run), str(tmp_path / "backbone.safetensors")]) == 0
    capsys.readouterr()
    assert pretint.cli.main(["colorize", str(run), "bundled", "--out", str(tmp_path / "colored")]) == 2
    assert "no color head" in capsys.readouterr().err
    assert pretint.cli.main(["pretrain", str(run), *words, "--method.name", "colorization"]) == 2
    assert "method" in capsys.readouterr().err


@pytest.mark.parametrize("name", one_fast("simclr", ["simclr", "joined", "split_brain", "mae"]))
def test_a_plan(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretext.plan._SECONDS", 0.2)
    words = [*WORDS[:6], *WORDS[8:]] if name in ("split_brain", "mae") else WORDS  # their backbones have no widths
    assert pretint.cli.main(["plan", str(RECIPES / f"{name}.yaml"), *words]) == 0
    assert "images/s" in capsys.readouterr().out
