"""A job of every kind of command that is preempted on a real Slurm ends as one that is left alone."""

import getpass
import json
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devkits import write_devkit, write_masks
from evaluations import read_numbers, write_class_images
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file
from slurm_jobs import (
    JOBS,
    SETTINGS,
    child_of,
    count_restarts,
    describe_jobs,
    read_losses,
    read_state,
    send,
    wait_for,
    wait_until_complete,
)
from waits import PATIENCE

import pretint.cli
from pretext.data.voc import CLASSES
from pretint.commands import COMMANDS
from slurm.records import attempts, read_sent

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

RECIPES = Path(pretint.__file__).parents[1] / "configs" / "transfer"
JUDGED = "--train images/train --test images/test --stages conv3 --workers 0 --device cpu --reference false"
TUNED = "--training.steps 12 --training.warmup 2 --training.batch_size 4 --machine.workers 0 --machine.device cpu"
COMMAND_LINES = {
    "pretrain": f"pretrain WHO/pretrain {shlex.join(SETTINGS)} --training.steps 60 --machine.workers 0",
    "simclr": f"pretrain WHO/simclr {shlex.join(SETTINGS)} --training.steps 60 --machine.workers 0 "
    "--method.name simclr --backbone.inputs rgb",
    "probe": f"probe base {JUDGED} --protocol logistic --cache WHO/cache --out WHO/probe",
    "knn": f"knn base {JUDGED} --cache WHO/cache --out WHO/knn",
    "svm": f"svm base {JUDGED} --cache WHO/cache --out WHO/svm",
    "score": "score base gray --images images/test --size 32 --device cpu --out WHO/score",
    "colorize": "colorize base images/test/class0 --device cpu --out WHO/colorize",
    "pack": "pack images/train WHO/pack",
    "classify": f"finetune classify base {TUNED} --train voc:2007:trainval:voc --test voc:2007:test:voc --size 32 "
    "--holdout 0 --reference false --out WHO/classify",
    "detect": f"finetune detect base --config {RECIPES}/laptop_detect.yaml {TUNED} --train voc:2007:trainval:voc "
    "--test voc:2007:test:voc --size 64 --holdout 0 --reference false --out WHO/detect",
    "segment": f"finetune segment base {TUNED} --train voc:2012:train:voc --test voc:2012:val:voc --size 32 "
    "--holdout 0 --reference false --out WHO/segment",
    "export": "export base WHO/base.safetensors",
    "predict": "predict model.safetensors images/test --out WHO/predict --workers 0 --device cpu",
    "embed": "embed base images/test --out WHO/embed/e.npz --cache WHO/cache --workers 0 --device cpu",
}
ASIDE = {
    "plan", "demo", "report", "replay", "compare", "table", "explore",  # they read, or do others of these
    "import",  # takes no time
    "studio", "turing",  # pages
}  # fmt: skip
"""Commands that can be sent, but leave nothing that an interruption could change."""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    write_class_images(tmp_path / "images" / "train", 1, (12, 12, 12))
    write_class_images(tmp_path / "images" / "test", 2, (6, 6, 6))
    voc = tmp_path / "voc"
    for part, right in (("trainval", 30), ("test", 50)):
        marked = {f"{part}{at}": [(name, (5, 5, right, 30), 0)] for at, name in enumerate(sorted(CLASSES))}
        write_devkit(voc, marked, "2007", part)
    named = [f"{part}{at}" for part in ("train", "val") for at in range(8)]
    write_devkit(voc, {stem: [("cat", (5, 5, 40, 30), 0)] for stem in named}, "2012", "trainval")
    masks = {stem: np.full((40, 60), 1 + at % 8, np.uint8) for at, stem in enumerate(named)}
    for at in range(8):
        masks[f"val{at}"][:8] = 0  # else they are the training images
    for part in ("train", "val"):
        write_masks(voc / "VOC2012", {stem: mask for stem, mask in masks.items() if stem.startswith(part)}, part)
    yield tmp_path
    monkeypatch.undo()
    subprocess.run(["scancel", "--user", getpass.getuser()], check=True, timeout=PATIENCE)


def read(kind: str, folder: Path) -> Any:
    """What a command has left, without times and places."""
    if kind in ("pretrain", "simclr"):
        return read_losses(folder / kind)
    if kind == "export":  # its bytes differ: safetensors writes metadata in any order
        path = folder / "base.safetensors"
        with safe_open(path, "np") as file:
            return file.metadata(), {name: values.tobytes() for name, values in load_file(path).items()}
    if kind == "predict":
        return {
            path.name: path.read_bytes() for path in (folder / kind).rglob("*.*") if path.suffix in (".png", ".csv")
        }
    if kind == "embed":
        return (folder / "embed" / "e.npz").read_bytes()
    if kind in ("colorize", "pack"):
        left = [path for path in sorted((folder / kind).rglob("*.*")) if path.suffix in (".png", ".tar")]
        assert left
        return {
            path.name: np.asarray(Image.open(path)).tobytes() if path.suffix == ".png" else path.read_bytes()
            for path in left
        }
    files = list((folder / kind).rglob("*.json"))
    results = [file for file in files if {"rows", "methods"} & json.loads(file.read_text()).keys()]
    assert len(results) == 1, results
    return json.loads(results[0].read_text())["methods"] if kind == "score" else read_numbers(results[0])


def test_every_command_that_leaves_something_is_here() -> None:
    sendable = {name for name, command in COMMANDS.items() if command.sendable}
    assert {line.split()[0] for line in COMMAND_LINES.values()} | ASIDE == sendable


def test_what_is_preempted_ends_as_what_is_left_alone(folder: Path) -> None:
    few = ["--training.steps", "12", "--machine.workers", "0", "--machine.device", "cpu"]
    assert pretint.cli.main(["pretrain", "base", *SETTINGS, *few]) == 0
    line = COMMAND_LINES["segment"].replace("WHO/segment", "tuned")
    assert pretint.cli.main(shlex.split(line)) == 0
    shutil.copy(next(Path("tuned").rglob("model.safetensors")), "model.safetensors")
    entries = [{"name": kind, "command": line.replace("WHO", "hit")} for kind, line in COMMAND_LINES.items()]
    Path("jobs.yaml").write_text(json.dumps(entries))
    assert send("--jobs", "jobs.yaml", minutes=20) == 0
    left = set(COMMAND_LINES)
    seen: dict[str, int] = {}

    def preempt() -> bool:
        """Preempt each job once, some time after its command has begun; whether all were, or have ended."""
        for sent in read_sent(JOBS):
            starts = [record for record in attempts(Path(sent.folder)) if record["kind"] == "start"]
            if sent.name not in left or not starts:
                continue
            if any(record["kind"] == "end" for record in attempts(Path(sent.folder))):
                left.discard(sent.name)
                continue
            seen[sent.name] = seen.get(sent.name, 0) + 1
            try:
                child_of(starts[-1]["pid"])
            except (OSError, AssertionError):
                continue
            if (Path(sent.folder) / "progress.json").exists() or seen[sent.name] > 10:  # it is at work
                subprocess.run(["scontrol", "requeue", sent.id], check=False, timeout=PATIENCE)
                left.discard(sent.name)
        return not left

    wait_for(preempt, "preempted", 4 * PATIENCE)
    for line in COMMAND_LINES.values():  # in this process, which has imported torch already
        assert pretint.cli.main(shlex.split(line.replace("WHO", "alone"))) == 0, line
    wait_until_complete(*COMMAND_LINES)
    hit = {kind: count_restarts(read_state(kind).sent) for kind in COMMAND_LINES}
    assert sum(hit.values()) >= len(hit) // 2, f"most must be hit amid their work: {hit}"
    for kind in COMMAND_LINES:
        assert read(kind, Path("hit")) == read(kind, Path("alone")), f"{kind}\n{describe_jobs()}"
