"""A probe's result as it lies in a run: read back, checked, typed."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from pretext.errors import UserError
from transfer.intervals import Estimate


class Stage(NamedTuple):
    """One stage's line in a probe; accuracies are fractions."""

    name: str
    dims: int
    random: Estimate
    pretrained: Estimate
    difference: Estimate


class Probe(NamedTuple):
    """What a reader needs of a probe file; ``docs/runs.md`` says what else is in it."""

    file: str
    protocol: str
    about: str
    interval: str
    seed: int
    pretraining_seed: int
    step: int
    view_size: int
    train: str
    test: str
    classes: list[str]
    n_fit: int
    n_holdout: int
    n_train: int
    n_test: int
    stages: list[Stage]
    best_random: Stage
    best_pretrained: Stage
    difference: Estimate
    """Best pretrained stage minus best random stage."""
    skipped: list[tuple[str, str]]

    @property
    def tells_apart(self) -> bool:
        """Whether the interval of the difference leaves out 0."""
        return self.difference.low > 0 or self.difference.high < 0


def read_probe(path: Path) -> Probe:
    """A probe file of a run.

    Raises:
        UserError: it cannot be read, or is no probe file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        data = found["data"]
        stages = {
            str(stage["stage"]): Stage(
                str(stage["stage"]),
                int(stage["dims"]),
                _estimate(stage["random"], "accuracy"),
                _estimate(stage["pretrained"], "accuracy"),
                _estimate(stage["difference"], "value"),
            )
            for stage in found["stages"]
        }
        return Probe(
            file=path.name,
            protocol=str(found["protocol"]),
            about=str(found["about"]),
            interval=str(found["interval"]),
            seed=int(found["seed"]),
            pretraining_seed=int(found["pretraining_seed"]),
            step=int(found["step"]),
            view_size=int(found["view_size"]),
            train=str(data["train"]),
            test=str(data["test"]),
            classes=[str(name) for name in data["classes"]],
            n_fit=int(data["n_fit"]),
            n_holdout=int(data["n_holdout"]),
            n_train=int(data["n_train"]),
            n_test=int(data["n_test"]),
            stages=list(stages.values()),
            best_random=stages[found["best"]["random"]],
            best_pretrained=stages[found["best"]["pretrained"]],
            difference=_estimate(found["best"]["difference"], "value"),
            skipped=[(str(key), str(reason)) for key, reason in found["skipped"]],
        )
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path}: no probe result, or a damaged one ({error!r}); make it again or move it away"
        ) from error


def _estimate(values: dict[str, Any], name: str) -> Estimate:
    return Estimate(float(values[name]), float(values["low"]), float(values["high"]))
