"""Runs with made-up results, for the tests of the report."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from fake_results import result, row
from PIL import Image

from pretext.recipe import PretrainSettings
from pretext.settings import to_plain
from pretext.store import to_line
from transfer.metrics import Metric, Top1Accuracy
from transfer.results import write_result

PHOTOS: dict[str, Any] = {
    "train": "images/train",
    "test": "images/val",
    "classes": ("tench", "church"),
    "n_fit": 8523,
    "n_holdout": 946,
    "n_train": 9469,
    "step": 40,
}


def right_answers(right: int, count: int = 1000, offset: int = 0) -> Top1Accuracy:
    """So many right answers out of a thousand, from an image on."""
    return Top1Accuracy(np.roll(np.arange(count) < right, offset))


def add_result(run: Path, name: str = "first", shares: Sequence[int] = (561, 662), **changed: Any) -> Path:
    """A result in a run: stages conv2 and conv5, answered right so many times in a thousand."""
    rows = changed.pop("rows", None) or [
        row(stage, right_answers(share), share / 1000) for stage, share in zip(("conv2", "conv5"), shares, strict=True)
    ]
    made = result(name, rows=rows, **(PHOTOS | {"protocol": "modern"} | changed))
    (run / "results").mkdir(exist_ok=True)
    path = run / "results" / f"{len(list((run / 'results').iterdir())):02d}.json"
    write_result(path, made)
    return path


def write_journal(run: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write a journal of these records; NaN becomes null."""
    plain = json.loads(json.dumps(records), parse_constant=lambda name: None)
    (run / "journal.jsonl").write_bytes(b"".join(map(to_line, plain)))


def add_both_results(run: Path, **changed: Any) -> None:
    """A network and what it began as."""
    add_result(run, **changed)
    add_result(run, "random", (546, 478), **({"kind": "random"} | changed | {"step": 0}))


def make_new_run(run: Path) -> Path:
    """A run in which nothing has happened yet."""
    run.mkdir(parents=True)
    settings = to_plain(PretrainSettings())
    settings["training"]["steps"] = 40
    (run / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return run


def make_trained_run(run: Path, *, skipped: int = 0) -> Path:
    """A run after its 40 steps, of which the first was called again."""
    make_new_run(run)
    versions = {"torch": "2.11.0", "decoder": "Pillow"}
    records: list[dict[str, Any]] = [
        {
            "kind": "start",
            "step": at,
            "time": 1795385324.1 + at,
            "device": "cpu",
            "workers": 1,
            "held_out": 256,
            "versions": versions,
        }
        for at in (0, 1)
    ]
    for step in range(1, 41):
        loss = math.nan if step == 7 else 5 - step / 20 + step % 3 / 10
        records.append({"kind": "step", "step": step, "loss": loss, "lr": 0.002 / step, "gradient_norm": 1.0})
    records += [
        {"kind": "skipped", "step": 3, "key": f"train/{number:03d}.jpg", "reason": "truncated"}
        for number in range(skipped)
    ]
    for step in (20, 40):
        health = {"loss": 4.123, "saturation": 0.817, "recall_common": 0.1, "recall_rare": math.nan, "entropy": 4.17}
        records.append({"kind": "health", "step": step, **health})
    write_journal(run, records)
    (run / "samples").mkdir()
    for step, color in ((20, "gray"), (40, "orange")):
        Image.new("RGB", (900, 300), color).save(run / "samples" / f"{step:08d}.png")
    return run


def add_finetuned_result(
    run: Path,
    name: str,
    outcomes: dict[str, Metric],
    trained: str = "all",
    journal: Sequence[dict[str, Any]] | None = None,
    **changed: Any,
) -> Path:
    """A result of fine-tuning in a run, by each of some rules, with the run that it is of; the latter is returned."""
    rows = [replace(row(trained, outcome, None, rule), dims=9600) for rule, outcome in outcomes.items()]
    facts: dict[str, Any] = {"mode": "fine-tuned", "protocol": "laptop-detect", "n_holdout": 40, "storage": ""}
    file = add_result(run, name, rows=rows, **(facts | changed))
    folder = run / "finetuned" / f"{name}.{trained.replace(' ', '-')}"
    file.rename(file.with_name(f"{folder.name}.json"))
    (folder / "samples").mkdir(parents=True)
    frozen = trained.removeprefix("above ") if trained != "all" else ""
    settings = {
        "task": "detect",
        "network": {"name": name, "backbone": "tiny", "weights": "e" * 64, "rescaled": False},
        **{"train": "voc:2007:trainval:D", "test": "voc:2007:test:D", "protocol": "laptop-detect", "freeze_to": frozen},
        "training": {"steps": 40, "batch_size": 8},
        "seed": 0,
    }
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    if journal is None:
        keys = [re.sub(r"\W+", "_", rule or "score") for rule in outcomes]
        journal = [
            {"kind": "start", "step": 0, "time": 1795385324.1, "device": "cpu", "versions": {"torch": "2.11.0"}},
            *({"kind": "step", "step": step, "loss": 2 - step / 40, "lr": 0.001 / step} for step in range(1, 41)),
            *({"kind": "health", "step": step, **dict.fromkeys(keys, 0.01 + step / 200)} for step in (0, 40)),
            {"kind": "skipped", "step": 40, "key": "000005.xml", "reason": "a box of no area was left out"},
        ]
    write_journal(folder, journal)
    for at, image in enumerate(("00000040", "test")):
        Image.new("RGB", (940, 400), ("gray", "orange")[at]).save(folder / "samples" / f"{image}.png")
    return folder
