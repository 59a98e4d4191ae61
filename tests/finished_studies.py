"""Studies with made-up results, for the tests of what is written of them."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from fake_results import answers, result, row
from finished_runs import write_journal
from PIL import Image

from pretext.backbones.contract import BackboneSettings
from pretext.data.batches import CropSettings
from pretext.data.source import DataSettings
from pretext.engine.checkpoint import save_checkpoint
from pretext.engine.trainer import TrainingSettings
from pretext.methods.objectives import ObjectiveSettings
from pretext.pretrained import color_contract
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import to_plain
from pretint.colorization.scores.table import Scores
from pretint.study.cells import PLAN, PRETRAIN, StudyCell, StudyPlan
from transfer.metrics import Row
from transfer.results import read_result, write_result

STEPS = 7
STAGES = ("conv1", "conv2", "conv3")
LEVELS = {"random": 0.30, "L2": 0.40, "rebalanced": 0.60}
"""Variants, and the shares of right answers at their last stage."""


def write_images(folder: Path, count: int = 5) -> Path:
    """A folder of small colored images."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((50, 40), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def make_trained_run(folder: Path, objective: str, seed: int, source: Path) -> Path:
    """A run that is finished, at random weights, with a journal."""
    settings = PretrainSettings(
        data=DataSettings(source=str(source)),
        backbone=BackboneSettings(name="tiny"),
        objective=ObjectiveSettings(name=objective, stride=4),  # type: ignore[arg-type]
        crop=CropSettings(size=32, area=(1.0, 1.0)),
        training=TrainingSettings(steps=STEPS, batch_size=10, warmup=0),
        seed=seed,
    )
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    state = {"step": STEPS, "settings": to_plain(settings), "color": color_contract(settings, prior)}
    model = build_colorizer(settings, prior).state_dict()
    save_checkpoint(folder / "checkpoints" / f"{STEPS:08}.pt", {**state, "model": model})
    (folder / "settings.yaml").write_text(yaml.safe_dump(to_plain(settings)))
    records = [
        {"kind": "start", "step": 0, "time": 1795385324.1, "device": "cpu", "held_out": 256},
        {"kind": "speed", "step": STEPS, "images_per_second": 0.5},
        {"kind": "health", "step": 3, "loss": 9.0, "saturation": 0.1},
        {"kind": "health", "step": STEPS, "loss": 4.0 + seed, "saturation": 0.8, "recall_rare": None},
    ]
    write_journal(folder, records)
    return folder


def finished_study(
    folder: Path,
    levels: Mapping[str, float] = LEVELS,
    seeds: tuple[int, ...] = (0, 1),
    evaluations: tuple[str, ...] = ("probe",),
    without: tuple[str, ...] = (),
    colors: bool = False,
    about: str = "Does it matter?",
    **changed: Any,
) -> Path:
    """A study in FOLDER/s: variants whose answers are right as often, all compared with the first.

    Args:
        folder: of studies.
        levels: by variant; the first is not trained.
        seeds: of all.
        evaluations: their names.
        without: names of cells that are not finished.
        colors: whether all that are trained are scored, too.
        about: what the study asks.
        changed: of the results.
    """
    cells, baseline = [], next(iter(levels))
    requests: dict[str, Any] = {name: {"command": "probe"} for name in evaluations}
    photographs = write_images(folder / "images")
    requests |= {"color": {"command": "score", "images": str(photographs)}} if colors else {}
    for number, (variant, level) in enumerate(levels.items()):
        for seed in seeds:
            key = f"{number:06d}{seed:06d}"
            run = f"runs/{number}-{seed}.{key}"
            if variant != baseline:
                call = {"command": PRETRAIN, "positionals": [run], "settings": {}, "line": f"pretint pretrain {run}"}
                cells.append(StudyCell(key, variant, seed, "", call, run, "", STEPS))
                if cells[-1].name not in without:
                    make_trained_run(folder / run, "regression" if variant == "L2" else "rebalanced", seed, photographs)
            after = "" if variant == baseline else key
            for at, (name, request) in enumerate(requests.items()):
                if request["command"] == "score" and variant == baseline:
                    continue
                cell_key = f"{at:06d}{number:03d}{seed:03d}"
                place = f"results/{number}-{seed}-{at}.{cell_key}"
                command = request["command"]
                scored = {"images": str(photographs), "size": 32} if command == "score" else {"train": "a b"}
                line = f"pretint {command} {run} --out={place} " + shlex.join(f"--{k}={v}" for k, v in scored.items())
                call = {"command": command, "positionals": [[run]], "settings": {"out": place, **scored}, "line": line}
                cells.append(StudyCell(cell_key, variant, seed, name, call, place, after))
                if cells[-1].name in without:
                    continue
                (folder / place).mkdir(parents=True)
                if request["command"] == "score":
                    Scores((), (), "", {}, (), (), (), folder / place / "scores.json").write()
                    continue
                kind = "random" if variant == baseline else "pretrained"
                made = result(f"net{number}-", seed, _rows(level, 100 * number + 10 * seed + at), kind=kind, **changed)
                write_result(folder / place / "r.json", made)
    against = {variant: baseline for variant in levels if variant != baseline}
    differing = {"objective.name": dict.fromkeys(against, "regression")}
    plan = StudyPlan(about, tuple(levels), seeds, requests, against, differing, {}, "", tuple(cells))
    (folder / "s").mkdir(parents=True)
    plan.write(folder / "s" / PLAN)
    return folder / "s"


def change_results(folder: Path, which: str = "*", **changed: Any) -> None:
    """Change results of studies in a folder.

    Args:
        folder: of studies.
        which: a pattern of the names of folders of results.
        changed: fields of the results.
    """
    for file in (folder / "results").glob(f"{which}/*.json"):
        write_result(file, replace(read_result(file), **changed))


def _rows(level: float, seed: int) -> list[Row]:
    shares = [level - 0.2, level - 0.1, level]
    return [row(stage, answers(share, seed), share) for stage, share in zip(STAGES, shares, strict=True)]
