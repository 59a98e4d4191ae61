"""Extraction in processes of its own, to be killed, to wait for each other, and to run out of room."""

import multiprocessing
import os
import resource
import sys
import time
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import transfer.features.cache
from pretext.data.source import digest_of_keys
from pretext.engine.device import ComputeConfig
from pretext.errors import ImageError, UserError
from transfer.features import CacheSettings, FeatureSet, View, extract
from transfer.networks import Network, open_network

SIZE = 16
RULES = ("mean", "average:128")


class Noise:
    """Images that their index alone decides, which take a while to read and may be unreadable."""

    def __init__(self, count: int, delay: float = 0.0, bad: tuple[int, ...] = (), seed: int = 0) -> None:
        self.count, self.delay, self.bad, self.seed = count, delay, bad, seed
        self.reads: list[int] = []
        self.requested_sizes: set[int | None] = set()

    def __len__(self) -> int:
        return self.count

    def read(self, index: int, shorter: int | None = None) -> Image.Image:
        self.reads.append(index)
        self.requested_sizes.add(shorter)
        time.sleep(self.delay)
        if index in self.bad:
            raise ImageError(self.key(index), "torn")
        rng = np.random.default_rng([self.seed, index])
        return Image.fromarray(rng.integers(0, 256, (SIZE, SIZE + 4, 3), dtype=np.uint8))

    def key(self, index: int) -> str:
        return f"{index:06}.png"

    def digest(self) -> str:
        return digest_of_keys(self)


def extract_features(
    source: Noise, folder: Path, networks: list[Network] | None = None, **changes: Any
) -> list[FeatureSet]:
    """Features as the tests take them, unless something is changed."""
    arguments: dict[str, Any] = {
        "view": View(SIZE),
        "rules": RULES,
        "place": ComputeConfig(torch.device("cpu"), "fp32", workers=0),
        "cache": CacheSettings(folder),
        "calibrate_on": (Noise(100, seed=9), View(SIZE)),
        "title": "test",
    }
    return extract(networks or [open_network("random:tiny")], source, **{**arguments, **changes})


def start_extraction(source: Noise, cache: Path, log: Path, **how: Any) -> ForkProcess:
    """A process that extracts with a worker in blocks of 64, or to a full disk; ``log`` gets what it says."""
    process = multiprocessing.get_context("fork").Process(target=_extract, args=(source, cache, log), kwargs=how)
    process.start()
    return process


def _extract(source: Noise, cache: Path, log: Path, largest: int = 0) -> None:
    os.setsid()  # a group of its own, so that it can be killed with its worker
    torch.set_num_threads(1)  # threads do not survive a fork
    if not largest:
        transfer.features.cache.ROWS = 64
    with log.open("w", buffering=1) as sys.stderr:
        if largest:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
        try:
            extract_features(source, cache, place=ComputeConfig(torch.device("cpu"), "fp32", workers=1))
            code = 0
        except UserError as error:
            sys.stderr.write(f"UserError: {error}\n")
            code = 2
        except KeyboardInterrupt:
            code = 130
        except SystemExit as ending:
            code = int(str(ending.code))
    os._exit(code)
