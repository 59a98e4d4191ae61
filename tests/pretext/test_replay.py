"""A loss that is no longer a number: the run stops, keeps what it came from, and one command looks at it."""

import json
from pathlib import Path

import pytest
from processes import Launcher
from tiers import one_fast

import pretint.cli
from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint, write_evidence
from pretext.recipe import PretrainSettings, open_images
from pretext.replay import ReplaySettings, replay
from pretext.settings import settings_file, to_plain
from pretext.store import seal, unseal

WORDS = [
    "--data.source", "bundled",
    "--crop.size", "16", "--objective.stride", "4", "--objective.prior_images", "20", "--data.holdout", "8",
    "--training.batch_size", "8", "--training.steps", "60", "--training.warmup", "0", "--training.optimizer", "sgd",
    "--training.lr", "1e25", "--training.clip", "0", "--machine.checkpoint_every", "3",
]  # fmt: skip


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("failed") / "run"
    assert pretint.cli.main(["pretrain", str(run), *WORDS]) == 2
    return run


def test_the_run_stops_and_keeps_the_evidence(failed: Path) -> None:
    [folder] = (failed / "nonfinite").iterdir()
    evidence = json.loads((folder / "evidence.json").read_text())
    step = evidence["step"]
    assert folder.name == f"{step:08d}" and evidence["samples"] == [(step - 1) * 8, step * 8]
    assert len(evidence["images"]) == 8
    assert max((r["step"] for r in read_journal(failed) if r["kind"] == "step"), default=0) == step - 1
    newest = newest_checkpoint(failed)
    assert newest is not None and load_checkpoint(newest)["step"] < step, "no checkpoint of the ruin is written"


def test_one_command_replays_it(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [folder] = (failed / "nonfinite").iterdir()
    (folder / "replay.json").unlink(missing_ok=True)
    assert pretint.cli.main(["replay", str(folder)]) == 0
    said = capsys.readouterr().out
    found = json.loads((folder / "replay.json").read_text())
    evidence = json.loads((folder / "evidence.json").read_text())
    assert found["step"] == evidence["step"] and found["loss"] == evidence["loss"]
    assert found["gradient_norm"] == evidence["gradient_norm"]
    assert found["module"] in said and "backbone" in found["module"]
    assert set(found["images"]) <= set(evidence["images"])


@pytest.mark.parametrize(
    ("world", "method"), one_fast((1, "colorization"), [(1, "colorization"), (2, "colorization"), (1, "supervised")])
)
def test_a_replayed_step_is_the_step(world: int, method: str, launcher: Launcher, tmp_path: Path) -> None:
    """Shown on a step whose loss is finite: what is not a number equals nothing."""
    run, healthy = tmp_path / "run", ["--training.optimizer", "adam", "--training.lr", "1e-3", "--training.steps", "6"]
    words = [*WORDS, *healthy, "--machine.workers", "0", "--method.name", method]
    processes = (
        launcher.start_ranks(world, "pretrain", run, *words) if world > 1 else [launcher.start("pretrain", run, *words)]
    )
    assert [process.wait() for process in processes] == [0] * world, processes[0].output
    settings = settings_file(PretrainSettings, run / "settings.yaml")
    samples = open_images(settings).samples(settings)
    record = next(r for r in read_journal(run) if r["kind"] == "step" and r["step"] == 5)
    folder = write_evidence(
        run, 5, record["loss"], record["gradient_norm"], settings.training, samples, to_plain(settings)
    )
    evidence = unseal((folder / "evidence.json").read_bytes()) | {"micro_batch": 8 // world}
    (folder / "evidence.json").write_bytes(seal(evidence))
    (folder / "checkpoint.pt").unlink()
    (folder / "checkpoint.pt").write_bytes((run / "checkpoints" / "00000003.pt").read_bytes())
    found = replay(folder, ReplaySettings())
    assert found.loss == pytest.approx(record["loss"], rel=0 if world == 1 else 1e-5, abs=0)
    assert found.gradient_norm == pytest.approx(record["gradient_norm"], rel=0 if world == 1 else 1e-3, abs=0)
    assert (found.module, found.gradients, found.images) == (None, [], [])


def test_the_run_refuses_to_pass_that_step_again(failed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretint.cli.main(["pretrain", str(failed), *WORDS]) == 2
    assert "pretint replay" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("evidence.json", None, "nothing to replay"),
        ("checkpoint.pt", None, "checkpoint"),
        ("settings.yaml", "seed: no", "settings.yaml"),
    ],
)
def test_bad_evidence(
    name: str,
    content: str | None,
    said: str,
    failed: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    [folder] = (failed / "nonfinite").iterdir()
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    assert pretint.cli.main(["replay", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and len(error.splitlines()) == 1
