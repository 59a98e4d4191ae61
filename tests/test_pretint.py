"""The front door: the road from end to end, and one line for everything a user does wrong."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pretint.cli
from pretext.engine.journal import read_journal
from pretext.errors import UserError
from pretint.commands import COMMANDS

SMALL = [
    "--data.source", "bundled",
    "--crop.size", "16",
    "--objective.stride", "4",
    "--objective.prior_images", "20",
    "--training.steps", "6",
    "--training.batch_size", "8",
    "--training.warmup", "1",
    "--machine.workers", "0",
]  # fmt: skip
JUDGED = ["--train", "bundled:train", "--test", "bundled:test"]

Said = tuple[int, str, str]
Pretint = Callable[..., Said]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Pretint:
    """Calls pretint; gives the exit code, standard output and standard error."""

    def call(*words: object) -> Said:
        code = pretint.cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("front") / "run"
    assert pretint.cli.main(["pretrain", str(run), *SMALL]) == 0
    return run


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(12):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / f"{index:02}.jpg")
    return folder


def refused(said: Said, *parts: str) -> None:
    code, out, err = said
    assert code == 2 and not out
    *progress, line = err.rstrip("\n").split("\n")
    assert line.startswith("pretint: ") and all(part in line for part in parts), err
    assert "Traceback" not in err and len(line) < 500
    assert all("images/s" in other or "prepare" in other for other in progress), err


@pytest.mark.slow
def test_the_road_from_end_to_end(said: Pretint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo, at a recipe that takes seconds: it runs the commands that it shows."""
    (tmp_path / "demo.yaml").write_text(
        "data: {source: bundled}\ncrop: {size: 16}\nobjective: {stride: 4, prior_images: 20}\n"
        "training: {steps: 4, batch_size: 8, warmup: 1}\nmachine: {workers: 0}\n"
    )
    monkeypatch.setattr(pretint.cli.commands, "RECIPES", tmp_path)
    run = tmp_path / "runs" / "demo"
    code, out, _ = said("demo", run)
    assert code == 0
    shown = [line for line in out.splitlines() if line.startswith("$ pretint")]
    assert [line.split()[2] for line in shown] == ["pretrain", "colorize", "probe", "compare"]
    assert len(list((run / "colored").glob("*.png"))) == 8 + 1
    table = [line for line in out.splitlines() if line.strip().startswith(("conv", "best"))]
    probed, compared = table[:5], table[5:]
    assert [line.count("[") for line in probed] == [2] * 5 and {line.count("[") for line in compared} == {3}, out
    assert sum("*" in line for line in compared) == 1, out
    assert f"report: {run / 'report.html'}" in out
    page = (run / "report.html").read_text()
    assert "conv5" in page and "data:image/png" in page and "<svg" in page
    code, out, _ = said("report", run)
    assert code == 0 and "report.html" in out


def test_bad_images_among_good_ones_are_listed_at_the_end(images: Path, tmp_path: Path, said: Pretint) -> None:
    (images / "empty.jpg").touch()
    (images / "text.png").write_text("no image")
    (images / "torn.jpg").write_bytes((images / "00.jpg").read_bytes()[:400])
    Image.fromarray(np.zeros((1, 1), dtype=np.uint8)).save(images / "pixel.png")
    code, out, _ = said("pretrain", tmp_path / "run", *SMALL, "--data.source", images)
    assert code == 0
    assert "3 skipped, because they cannot be read:" in out
    assert all(name in out for name in ("empty.jpg", "text.png", "torn.jpg")) and "pixel.png" not in out
    kept = [record["key"] for record in read_journal(tmp_path / "run") if record["kind"] == "skipped"]
    assert sorted(kept) == ["empty.jpg", "text.png", "torn.jpg"]


def test_commands(said: Pretint) -> None:
    for words in ([], ["--help"], ["-h"]):
        code, out, _ = said(*words)
        assert code == 0 and all(name in out for name in ("plan", "pretrain", "probe", "colorize", "report", "demo"))
    assert said("--version") == (0, f"pretint {version('pretint')}\n", "")
    refused(said("pretrian"), "no command is called pretrian", "did you mean pretrain?")


def test_a_plan_takes_a_recipe_and_options(said: Pretint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretext.plan._SECONDS", 0.1)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(
        "data: {source: bundled}\ncrop: {size: 16}\nobjective: {stride: 16}\ntraining: {steps: 30, warmup: 1}\n"
    )
    code, out, _ = said("plan", recipe, "--training.batch_size", 8, "--machine.workers", 0)
    assert code == 0 and "samples, in 30 steps of 8" in out
    code, out, _ = said("plan", "--training.batch_size=8", "--machine.workers=0", "--training.steps=40", recipe)
    assert code == 0 and "samples, in 40 steps of 8" in out
    assert sorted(tmp_path.iterdir()) == [recipe]
    recipe.write_text("crop: {sise: 16}\n")
    refused(said("plan", recipe), "small.yaml", "crop.sise", "crop.size")
    refused(said("plan"), "recipe")
    refused(said("plan", tmp_path / "none.yaml"), "none.yaml", "cannot read")


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        pretint.cli.main([command, "--help"])
    assert stopped.value.code == 0
    assert f"usage: pretint {command}" in capsys.readouterr().out


def test_wrong_settings(said: Pretint, tmp_path: Path) -> None:
    run = tmp_path / "run"
    refused(said("pretrain", run, "--training.lrr", "1"), "training.lrr", "nearest is training.lr")
    refused(said("pretrain", run, "--training.steps", "many"), "training.steps", "many")
    refused(said("pretrain", run, "--training.steps", "0"), "training.steps", "above 0")
    refused(said("pretrain", run, *SMALL, "--backbone.name", "resnet19"), "resnet19", "resnet18")
    refused(said("pretrain", run, *SMALL, "--machine.device", "cuda:77"), "cuda:77")
    refused(said("pretrain", run, *SMALL, "--objective.prior", "nowhere.npy"), "nowhere.npy")
    config = tmp_path / "recipe.yaml"
    config.write_text("training:\n  steps: [1]\n")
    refused(said("pretrain", run, "--config", config), str(config), "training.steps")
    refused(said("colorize", run), "no images are named")


def test_wrong_places(said: Pretint, trained: Path, tmp_path: Path) -> None:
    empty, text = tmp_path / "empty", tmp_path / "text"
    empty.mkdir()
    text.mkdir()
    (text / "a.txt").write_text("no image")
    for source in (tmp_path / "nowhere", empty, text, text / "a.txt"):
        refused(said("pretrain", tmp_path / "run", "--data.source", source), str(source))
        assert not (tmp_path / "run").exists(), "nothing is left behind"
        refused(said("probe", trained, "--train", source, "--test", "bundled:test"), str(source))
    (text / "b.jpg").write_text("no image either")
    code, out, err = said("pretrain", tmp_path / "run2", *SMALL, "--data.source", text)
    left_out, _, refusal = err.partition("\n")
    assert left_out == f"{text}: 1 file left out: 1 .txt"
    refused((code, out, refusal), "can be read", "b.jpg")
    refused(said("probe", tmp_path / "nowhere", *JUDGED), "nowhere")
    refused(said("report", tmp_path / "nowhere"), "nowhere")
    refused(said("colorize", text / "a.txt", empty), "a.txt", "not a checkpoint")
    refused(said("colorize", trained, empty), str(empty))


def test_other_settings_on_a_run(said: Pretint, trained: Path) -> None:
    refused(said("pretrain", trained, *SMALL, "--seed", "1"), str(trained), "seed was 0, is now 1")


def test_changed_images(said: Pretint, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert said("pretrain", run, *SMALL, "--data.source", images)[0] == 0
    (images / "00.jpg").unlink()
    refused(said("pretrain", run, *SMALL, "--data.source", images), "12 images then, 11 now")


def test_a_damaged_checkpoint(said: Pretint, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    newest = max((run / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:5000])
    refused(said("probe", newest, *JUDGED), f"{newest}: damaged or cut")
    code, _, err = said("pretrain", run, *SMALL)
    assert code == 0 and err.startswith(f"{newest}: damaged or cut")
    assert "the checkpoint before it, is used" in err.splitlines()[0]
    for checkpoint in (run / "checkpoints").iterdir():
        checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    refused(said("pretrain", run, *SMALL), str(newest), "no other undamaged checkpoint")
    refused(said("probe", run, *JUDGED), str(newest))


def test_a_loss_that_explodes(said: Pretint, tmp_path: Path) -> None:
    words = [
        "--objective.name",
        "regression",
        "--training.lr",
        "1e38",
        "--training.clip",
        "0",
        "--training.warmup",
        "0",
    ]
    refused(said("pretrain", tmp_path / "run", *SMALL, *words), "the loss is", "lower training.lr")


def test_from_python(trained: Path) -> None:
    from pretext import load_pretrained

    pretrained = load_pretrained(trained)
    stages = pretrained.colorizer.backbone(torch.full((1, 1, 32, 32), 50.0))
    assert [(name, tuple(value.shape[1:])) for name, value in stages.items()] == [
        ("conv1", (32, 16, 16)),
        ("conv2", (64, 8, 8)),
        ("conv3", (128, 4, 4)),
        ("conv4", (256, 2, 2)),
        ("conv5", (256, 2, 2)),
    ]
    assert json.loads(json.dumps(pretrained.settings.crop.size)) == 16


def test_user_errors_are_exceptions() -> None:
    with pytest.raises(UserError):
        raise UserError("one line")


def test_the_list_of_commands_does_not_wait_for_torch() -> None:
    code = "import sys, pretint.cli; pretint.cli.main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pretrain  Learn features" in done.stdout and done.stdout.endswith("False\n")


def test_few_commands_wait_for_timm() -> None:
    modules = (
        "pretext.pretrain", "transfer.probes.linear", "transfer.probes.knn", "pretint.colorization.job",
        "pretint.colorization.scores.job", "slurm",
    )  # fmt: skip
    code = f"import sys, {', '.join(modules)}; print({{'timm', 'torchvision', 'torch._dynamo'}} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
