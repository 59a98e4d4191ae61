"""The kinds of artifacts: how each is made in a folder, in a process that may be killed, and what comes out in the end.

A job works in a folder of its own, finds its inputs in another, and returns plain values. So its tests depend on no
format: what it stores is every file in its folder.
"""

import hashlib
import io
import math
import os
import pickle
import re
import signal
import sys
import tarfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from colorize_files import photograph, write_checkpoint
from evaluations import QUICK, train_tiny_run, write_class_images

import transfer.evaluation
import transfer.features.cache
from pretext.data import ClassFolder, LabeledShards, Shards, scan
from pretext.data.pack import PackSettings, pack
from pretext.engine.journal import read_journal
from pretext.engine.run import newest_checkpoint
from pretext.errors import UserError
from pretext.pretrain import pretrain
from pretext.recipe import PretrainSettings
from pretext.settings import settings_from
from pretint.colorization import ColorizeSettings, ScoreSettings, colorize, score
from pretint.study.cells import CellStore, read_plan
from pretint.study.expand import expand
from pretint.study.file import read_study
from pretint.study.identity import source_digest
from transfer.probes.knn import KnnSettings, knn
from transfer.probes.linear import ProbeSettings, probe
from transfer.probes.svm import SvmSettings, svm
from transfer.protocols import PROTOCOLS, SvmProtocol

SIDE, STEPS = 16, 4


class Kind(NamedTuple):
    """A kind of artifacts."""

    run: Callable[[Path, Path], Any]
    """Makes it in the second folder from the inputs in the first; a second call continues. Returns the outcome."""
    kept: str = "-"
    """A pattern of the names of files that stay untouched once they have their names, but for those at work."""
    unit: int = 1
    """The number of such files that are at work at once."""
    unread: str = "-"
    """A pattern of the names of files that nothing reads back."""


STUDY = """
settings: {data.source: "{images}/train", crop.size: 16, training: {steps: 6, batch_size: 8, warmup: 1}}
variants: {L2: {objective.name: regression}, rebalanced: }
evaluations: {color: {command: score, images: "{images}/test", size: 16}}
places: {images: ""}
"""


def make_inputs(folder: Path) -> Path:
    """Write what all jobs read."""
    write_class_images(folder / "train", 1, (12, 12), SIDE)
    write_class_images(folder / "test", 2, (6, 6), SIDE)
    train_tiny_run(folder / "run")
    write_checkpoint(folder / "model.pt")
    (folder / "study.yaml").write_text(STUDY)
    (folder / "album").mkdir()
    for seed in range(3):
        photograph(40, 30, seed).save(folder / "album" / f"{seed}.png")
    pack(str(folder / "train"), folder / "packed", PackSettings(shorter=SIDE, shard_mb=0.005, workers=0))
    with tarfile.open(folder / "some.tar", "w") as tar:
        for path in sorted((folder / "album").iterdir()):
            tar.add(path, path.name)
    return folder


def _contents(source: Any) -> Any:
    return [(source.key(at), source.data(at)) for at in range(len(source))]


def _pretrain(inputs: Path, folder: Path) -> Any:
    values = {
        "data": {"source": str(inputs / "train"), "holdout": 2},
        "crop": {"size": SIDE},
        "objective": {"prior_images": 10, "stride": 4},
        "training": {"steps": STEPS, "batch_size": 4, "warmup": 1},
        "machine": {"workers": 0, "checkpoint_every": 1, "evaluate_every": 2},
    }
    assert not pretrain(folder / "run", settings_from(PretrainSettings, values, "test"))
    checkpoint = newest_checkpoint(folder / "run")
    assert checkpoint is not None
    model = torch.load(checkpoint, weights_only=True)["model"]
    digest = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in model.values())).hexdigest()
    losses = {record["step"]: record["loss"] for record in read_journal(folder / "run") if record["kind"] == "step"}
    return {"weights": digest, "losses": losses}


def _evaluate(inputs: Path, folder: Path, job: Any, settings: type, **changed: Any) -> Any:
    if not (folder / "weights.pt").exists():
        os.link(max((inputs / "run" / "checkpoints").iterdir()), folder / "weights.pt")
    common = {"train": str(inputs / "train"), "test": str(inputs / "test"), "workers": 0, "stages": ["conv1", "conv2"]}
    common |= {
        "cache": str(folder / "cache"),
        "out": str(folder / "results"),
        "size": SIDE,
        "reference": False,
        "precision": "fp32",
        **changed,
    }
    (result,) = job([str(folder / "weights.pt")], settings(**common))
    return [(row.stage, row.variant, row.score.value, row.chosen) for row in result.rows]


def _score(inputs: Path, folder: Path) -> Any:
    settings = ScoreSettings(images=str(inputs / "album"), size=32, batch=1, out=str(folder / "scores"))
    scores = score([str(inputs / "model.pt")], settings)
    return [(line.method, {name: each.value for name, each in line.scores.items()}) for line in scores.lines]


def _colorize(inputs: Path, folder: Path) -> Any:
    settings = ColorizeSettings(out=folder / "out", size=32, device="cpu")
    done = colorize(inputs / "model.pt", [inputs / "album"], settings)
    return {path.name: path.read_bytes() for path in done.written if path.exists()}


def _pack(inputs: Path, folder: Path) -> Any:
    done = pack(str(inputs / "train"), folder / "to", PackSettings(shorter=SIDE, shard_mb=0.005, workers=0))
    source = LabeledShards(folder / "to")
    return done.images, done.skipped, _contents(source), source.labels.tolist(), source.classes


def _copy(inputs: Path, folder: Path) -> Any:
    os.environ["PRETINT_LOCAL"] = str(folder / "local")
    source = LabeledShards(inputs / "packed")
    assert all(file.is_relative_to(folder) for file in source._files)
    return _contents(source), source.labels.tolist(), source.classes


def _index_folder(inputs: Path, folder: Path) -> Any:
    source = ClassFolder(inputs / "train")
    return source.digest(), _contents(source), source.labels.tolist(), source.classes


def _index_tar(inputs: Path, folder: Path) -> Any:
    source = Shards(inputs / "some.tar")
    return source.digest(), _contents(source)


def _plan(inputs: Path, folder: Path) -> Any:
    source_digest.cache_clear()  # this process may have done it in another folder
    store, file = CellStore(folder), folder / "plan.json"
    plan = expand(read_study(inputs / "study.yaml", {"images": str(inputs)}), store)
    if not file.exists():
        plan.write(file)
    for cell in plan.cells:
        store.file(cell, "log").parent.mkdir(parents=True, exist_ok=True)
        if store.failure(cell) is None:
            store.write_failure(cell, -9)
    text = repr((read_plan(file), [store.failure(cell) for cell in plan.cells]))
    return re.sub(r"/[^' ]*/(?=runs/|results/)", "", text)  # a copy holds the paths of the original


KINDS = {
    "run": Kind(_pretrain, unread=r".*/(samples|tensorboard)/.*"),
    "probe": Kind(lambda *where: _evaluate(*where, probe, ProbeSettings), r".*\.f16", 5),
    "knn": Kind(lambda *where: _evaluate(*where, knn, KnnSettings), r".*\.f16", 5),
    "svm": Kind(lambda *where: _evaluate(*where, svm, SvmSettings, stages=["conv1"]), r".*\.f16", 5),
    "score": Kind(_score),
    "colorize": Kind(_colorize, kept=r".*/[^.][^/]*\.png", unread=r".*sheet.*"),
    "pack": Kind(_pack, kept=r".*/shard-[0-9]+\.tar"),
    "local copy": Kind(_copy, kept=r".*/shard-[0-9]+\.tar"),
    "study": Kind(_plan),
    "folder index": Kind(_index_folder),
    "tar index": Kind(_index_tar),
}


class Outcome(NamedTuple):
    """How a job ended."""

    code: int
    value: Any
    """What it returned, or the message of an error."""
    output: str
    events: int
    """How often it opened a file of the folder for writing, or renamed, made or removed one."""


def kill(folder: Path) -> None:
    """Kill this process."""
    os.kill(os.getpid(), signal.SIGKILL)


def take_away(folder: Path) -> None:
    """Give the folder another name, as if its disk had been removed."""
    folder.rename(folder.with_suffix(".away"))


def jump(folder: Path) -> None:
    """Set the clock back by a day, and let it run backward."""
    start, start_ns = time.time(), time.time_ns()
    time.time = lambda real=time.time: 2 * start - 86_400 - real()  # type: ignore[misc]
    time.time_ns = lambda real=time.time_ns: 2 * start_ns - 86_400 * 10**9 - real()  # type: ignore[misc]


def run_in_process(
    kind: Kind, inputs: Path, folders: Sequence[Path], at: int = 0, accident: Callable[[Path], None] = kill
) -> list[Outcome]:
    """Do the job of a kind in some folders, one after the other, in a process.

    Args:
        kind: what is done.
        inputs: the folder of ``make_inputs``.
        folders: each gets the artifacts of one job.
        at: the number of an event, see ``Outcome``, before which the accident happens; 0: none happens.
        accident: is called with the folder.

    Returns:
        The outcomes; nothing of a process that was killed.
    """
    process = get_context("fork").Process(target=_work, args=(kind, inputs, folders, at, accident))
    process.start()
    process.join()
    killed = bool(at) and accident is kill
    assert process.exitcode == (-signal.SIGKILL if killed else 0)
    return [] if killed else [pickle.loads(folder.with_suffix(".outcome").read_bytes()) for folder in folders]


def _work(kind: Kind, inputs: Path, folders: Sequence[Path], at: int, accident: Callable[[Path], None]) -> None:
    torch.set_num_threads(1)  # threads do not survive a fork
    os.environ.pop("PRETINT_LOCAL", None)
    scan.WORTH, scan._SETTLED = 1, 0
    transfer.features.cache.ROWS = 6
    transfer.evaluation.SAVED_EVERY, transfer.evaluation.LONG_SAVE = 0.0, math.inf  # also on a slow disk
    machines = cast(SvmProtocol, PROTOCOLS["voc07_svm"])
    protocols = cast(dict[str, Any], PROTOCOLS)
    protocols["modern"] = replace(QUICK, rates=(1e-2, 1e-1), poolings=("mean",), epochs=2, least_steps=4)
    protocols["voc07_svm"] = replace(machines, costs=(0.1, 1.0))
    events, inside = 0, b""

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal events
        if event not in ("open", "os.rename", "os.remove", "os.mkdir"):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if isinstance(arguments[0], str | bytes) and os.fsencode(arguments[0]).startswith(inside):
            events += 1
            if events == at:
                accident(folder)

    sys.addaudithook(count)
    for folder in folders:
        inside, events = os.fsencode(folder) + b"/", 0
        os.environ["XDG_CACHE_HOME"] = str(folder / "caches")
        sys.stderr = sys.stdout = io.StringIO()
        code, value, output = 0, None, sys.stderr
        try:
            value = kind.run(inputs, folder)
        except UserError as error:
            code, value = 2, str(error)
        except BaseException:
            code, value = 1, traceback.format_exc()
        outcome = Outcome(code, value, output.getvalue(), events)
        folder.with_suffix(".outcome").write_bytes(pickle.dumps(outcome))
    os._exit(0)


def stored_files(kind: Kind, folder: Path) -> dict[str, list[Path]]:
    """Return the files of a folder that have content, by their names without numbers."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.stat().st_size and not re.fullmatch(kind.unread, name):
            files.setdefault(re.sub(r"[0-9a-f]{12,}|[0-9]+", "#", name), []).append(path)
    return files
