"""Short fine-tunings of every task."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretext.engine.signals import ExitStatus
from pretext.settings import settings_from
from transfer.finetune import finetune
from transfer.results import Result
from transfer.tasks.registry import TASKS
from transfer.tasks.task import FinetuneSettings

SMALL: dict[str, dict[str, Any]] = {
    "classify": {"size": 48, "crop": {"area": [0.6, 1.0]}},
    "detect": {
        "size": 64,
        "sizes": {"shorter": [48, 64], "longest": 128},
        "head": {
            "neck": "conv4",
            "width": 32,
            "pooled": 3,
            "anchors": [16.0, 32.0],
            "candidates": [64, 64],
            "proposals": [32, 32],
            "rois": 16,
        },
    },
    "segment": {"size": 64, "crops": {"size": 48, "shorter": 64}, "head": {"kind": "fcn8"}},
}
STEPS = 6


def asked(task: str, devkit: Path, **changed: Any) -> dict[str, Any]:
    training = {"steps": STEPS, "batch_size": 4, "warmup": 1, "optimizer": "adamw", "lr": 1e-3, "precision": "fp32"}
    return {
        "train": f"voc:2007:trainval:{devkit}" if "mini" in str(devkit) else f"voc:2007:train:{devkit}",
        "test": f"voc:2007:test:{devkit}",
        "protocol": "small",
        "holdout": 2,
        **SMALL[task],
        **changed,
        "training": {**training, **changed.get("training", {})},
        "machine": {"workers": 0, "checkpoint_every": 2, "evaluate_every": 3, **changed.get("machine", {})},
    }


def settings(task: str, devkit: Path, **changed: Any) -> FinetuneSettings:
    return settings_from(TASKS[task].settings, asked(task, devkit, **changed), "test")


def tuned(networks: Sequence[str | Path], task: str, devkit: Path, **changed: Any) -> list[Result]:
    done = finetune([str(one) for one in networks], settings(task, devkit, **changed))
    assert done.ending == ExitStatus.COMPLETE
    return done.results


def folder_of(result: Result) -> Path:
    file = Path(result.file)
    return file.parents[1] / "finetuned" / file.stem
