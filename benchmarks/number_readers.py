"""How ``benchmarks.same_numbers`` reads numbers from the files of the first edition, and from those of HEAD."""

import csv
import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

Numbers = dict[str, str]


def read_losses(file: Path, first: bool = True) -> Numbers:
    """Every training loss and validation number of a run, by step; of HEAD's those that the first edition had."""
    left = ["seconds", "rate", "wait", "per_second", "memory", "time"]
    left += [] if first else ["rankme"]
    numbers = {}
    for line in file.read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if name not in ("kind", "step", "seal") and not any(word in name for word in left):
                numbers[f"{record['kind']} {record['step']} {name}"] = repr(value)
    return numbers


def read_tensors(file: Path) -> Numbers:
    """The multiset of the tensors of a checkpoint, without their names, which a redesign may change."""
    digests: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            shape = f"{value.dtype}{tuple(value.shape)}".encode()
            data = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
            digests.append(hashlib.sha256(shape + data).hexdigest())
        elif isinstance(value, dict):
            for inner in value.values():
                walk(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                walk(inner)

    walk(torch.load(file, map_location="cpu", weights_only=True))
    return {f"tensor {place}": digest for place, digest in enumerate(sorted(digests))}


def read_result(file: Path) -> Numbers:
    """Value, interval and held-out value of every row of a result."""
    result = json.loads(file.read_text())
    if "rows" not in result:
        return {}
    return {
        f"{row['stage']} {row['variant']} {name}": repr(row[name])
        for row in result["rows"]
        for name in sorted(row)
        if name != "seconds"
    }


def read_csv(file: Path) -> Numbers:
    """Every cell but what took how long, and the digests of checkpoints."""
    rows = list(csv.DictReader(file.read_text().splitlines()))
    return {
        f"{title_of(row)}, {name}": re.sub(r", (checkpoint|weights) [0-9a-f]{8}", "", value)
        for row in rows
        for name, value in row.items()
        if name and not any(word in name for word in ("minutes", "seconds", "per_second", "checkpoint"))
    }


def title_of(row: dict[str, str]) -> str:
    """What a row of the first edition's CSV files is about; the order of rows may change."""
    return " ".join(row[name] for name in ("evaluation", "method", "variant", "row", "metric") if row.get(name))


SCORE_COLUMNS = {
    "network": "method", "test": "pictures", "test_digest": "digest", "view_size": "size", "evaluation_seeds": "seed",
}  # fmt: skip
"""The long table's columns that were named otherwise in the CSV of scores."""
STUDY_COLUMNS = {"network": "variant", "sd_over_seeds": "over_seeds", "n": "n_test"}
"""The same, in the CSV of studies."""


def read_long_table(file: Path) -> Numbers:
    """The cells of a long table that the first edition's CSV had too, by its names; ``read_csv`` of HEAD's files."""
    study = file.name == "report.csv"
    names = STUDY_COLUMNS if study else SCORE_COLUMNS
    kept = ["metric", "value", "low", "high", "against", "difference", "difference_low", "difference_high", *names]
    if study:
        kept += ["evaluation", "protocol", "shown", "p", "p_holm", "tests"]
        kept += ["difference_over_seeds_low", "difference_over_seeds_high"]
    else:
        kept += ["about", "records", "most", "gray_threshold", "n", "n_gray", "n_unread", "prior"]
    numbers: Numbers = {}
    for row in csv.DictReader(file.read_text().splitlines()):
        old = {names.get(name, name): re.sub(r", weights [0-9a-f]{8}", "", row[name]) for name in kept}
        if study:
            stage = ", ".join(filter(None, (row["stage"], row["variant"])))
            old |= {"row": stage or row["metric"], "seeds": row["seeds"].replace(";", " ")}
        numbers |= {f"{title_of(old)}, {name}": value for name, value in old.items()}
    return numbers


def read_settings(file: Path, first: bool = True) -> Numbers:
    """Every setting by its dotted name; of HEAD's those that the first edition had."""
    flat: Numbers = {}

    def walk(value: Any, name: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, f"{name}.{key}" if name else str(key))
        else:
            flat[name] = repr(value)

    walk(yaml.safe_load(file.read_text()), "")
    if first:
        return flat
    if flat.get("input") == "'auto'":
        flat["input"] = "'lightness'"  # what auto means for all networks of the first edition
    return {name: value for name, value in flat.items() if not name.startswith(LATER)}


LATER = ("method.", "augment.", "backbone.inputs")
"""Settings that came after the first edition."""


def read_pixels(file: Path) -> Numbers:
    """The pixels of an image."""
    with Image.open(file) as image:
        return {"pixels": hashlib.sha256(np.asarray(image).tobytes()).hexdigest()}


READERS: dict[str, tuple[Callable[[Path], Numbers], Callable[[Path], Numbers]]] = {
    ".jsonl": (read_losses, partial(read_losses, first=False)),
    ".pt": (read_tensors, read_tensors),
    ".json": (read_result, read_result),
    ".csv": (read_csv, read_long_table),
    ".yaml": (read_settings, partial(read_settings, first=False)),
    ".png": (read_pixels, read_pixels),
}
"""By the ending of a file: how the first edition's is read, and how HEAD's."""
