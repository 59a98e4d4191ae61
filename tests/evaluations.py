"""Evaluations of a tiny run, in this process and in others, to be killed, stopped and put out of room."""

import csv
import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image

import transfer.evaluation
import transfer.features.cache
from pretext.errors import UserError
from pretext.pretrain import pretrain
from pretext.recipe import PretrainSettings
from pretext.settings import settings_from
from transfer.protocols import PROTOCOLS, LinearProtocol

MODERN = cast(LinearProtocol, PROTOCOLS["modern"])
QUICK = replace(
    MODERN, rates=(1e-3, 1e-2, 1e-1), poolings=("mean", "average:128"), epochs=3, least_steps=16, batch_size=32
)
"""As modern, but smaller. In tests it takes its place."""
SIDE = 16

# Autograd decides at its first use in a process whether it may be used after a fork. After a fake tensor it says no.
torch.ones(1, requires_grad=True).backward()


def train_tiny_run(folder: Path) -> Path:
    """Train a run of four steps on the built-in tiles."""
    values = {
        "data": {"source": "bundled"},
        "crop": {"size": SIDE},
        "objective": {"prior_images": 20, "stride": 4},
        "training": {"steps": 4, "batch_size": 8, "warmup": 1},
        "machine": {"workers": 0},
    }
    assert not pretrain(folder, settings_from(PretrainSettings, values, "test"))
    return folder


def write_class_images(folder: Path, seed: int, counts: Sequence[int] = (40, 40, 40), side: int = SIDE) -> Path:
    """Write a folder of classes of noisy images that differ in brightness and stripes."""
    rng = np.random.default_rng(seed)
    for label, count in enumerate(counts):
        (folder / f"class{label}").mkdir(parents=True)
        for index in range(count):
            stripes = np.sin(np.arange(side) * (0.5 + label))[:, None, None] * np.array([60, 20, -40 + 30 * label])
            pixels = 110 + 20 * label + stripes + rng.normal(0, 60, (side, side, 3))
            image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
            image.save(folder / f"class{label}" / f"{index}.png")
    return folder


class Interrupt(NamedTuple):
    """A signal to a process, after a number of calls of a function."""

    owner: Any
    name: str
    calls: int
    number: signal.Signals = signal.SIGKILL

    def prepare(self) -> None:
        """Let this process send itself the signal."""
        real, left = getattr(self.owner, self.name), self.calls

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            result = real(*args, **kwargs)
            left -= 1
            if left == 0:
                # To all of the group, as a kill -9 of a job does; a signal of a user only to the process.
                (os.killpg if self.number == signal.SIGKILL else os.kill)(os.getpid(), self.number)
            return result

        setattr(self.owner, self.name, counted)


def start_evaluation(
    call: Callable[[], Any], log: Path, blow: Interrupt | None = None, largest: int = 0, saved_every: float = 0.0
) -> ForkProcess:
    """Start a process that does ``call`` and prints to ``log``; no file may be larger than ``largest``."""
    process = multiprocessing.get_context("fork").Process(target=_work, args=(call, log, blow, largest, saved_every))
    process.start()
    return process


def _work(call: Callable[[], Any], log: Path, blow: Interrupt | None, largest: int, saved_every: float) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that started the tests with & has it ignored
    torch.set_num_threads(1)  # threads do not survive a fork
    transfer.features.cache.ROWS = 64
    transfer.evaluation.SAVED_EVERY = saved_every
    file = log.open("w", buffering=1)
    sys.stderr = sys.stdout = file
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    if blow:
        blow.prepare()
    code = 1
    try:
        code = int(call() or 0)
    except UserError as error:
        sys.stderr.write(f"UserError: {error}\n")
        code = 2
    except SystemExit as ending:
        code = int(str(ending.code))
    except BaseException:
        import traceback

        traceback.print_exc()
    file.flush()
    os._exit(code)


def read_numbers(file: str | Path) -> dict[str, Any]:
    """Return all of a result's file that must not depend on how often its evaluation was interrupted."""
    record = json.loads(Path(file).read_text())
    return {
        name: value for name, value in record.items() if name not in ("cost", "network", "test", "train", "seal")
    } | {"weights": record["network"]["weights"]}


def read_study_numbers(folder: Path) -> list[dict[str, str]]:
    """Return the rows of a study's report, all but what they took, from the study's folder."""
    cost = ("seconds", "per_second", "bytes")
    with (folder / "report.csv").open() as rows:
        return [{key: value for key, value in row.items() if not key.endswith(cost)} for row in csv.DictReader(rows)]
