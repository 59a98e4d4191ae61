"""Results with made-up answers, for the tests of what is done with results."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transfer.bootstrap import ABOUT
from transfer.metrics import AveragePrecision, Metric, Row, Top1Accuracy, make_row
from transfer.results import Cost, ModelInfo, Result

CLASSES = ("cat", "dog", "fish")
STAGES = ("conv1", "conv2", "conv3")


def answers(share: float, seed: int, count: int = 400) -> Top1Accuracy:
    """So many right answers, whichever they are."""
    return Top1Accuracy(np.random.default_rng(seed).random(count) < share)


def truth(count: int = 300, classes: int = 3, seed: int = 0) -> NDArray[np.int8]:
    """About every fifth image shows a class, every twentieth is not counted."""
    drawn = np.random.default_rng(seed).random((count, classes))
    return np.where(drawn < 0.2, 1, np.where(drawn < 0.25, -1, 0)).astype(np.int8)


def ranking(strength: float, seed: int, known: NDArray[np.int8] | None = None) -> AveragePrecision:
    """Scores that know the truth the better the greater the strength."""
    known = truth() if known is None else known
    noise = np.random.default_rng(seed + 100).normal(size=known.shape)
    return AveragePrecision((strength * (known == 1) + noise).astype(np.float32), known)


def row(stage: str, outcome: Metric | Sequence[Metric], holdout: float | None = 0.5, variant: str = "") -> Row:
    """A row of outcomes."""
    outcomes = [outcome] if isinstance(outcome, Metric) else outcome
    return make_row(stage, variant, 9600, "average:9600", {"lr": 0.1}, holdout, outcomes)


def result(
    name: str = "color", seed: int = 0, rows: Sequence[Row] | None = None, evaluation_seed: int = 0, **changed: Any
) -> Result:
    """A result; fields of the network may be changed as its own."""
    of_network = {key: changed.pop(key) for key in ("group", "kind", "step", "backbone", "weights") if key in changed}
    kind = of_network.get("kind", "pretrained")
    network = ModelInfo(
        name=name,
        group=hashlib.sha256(name.rstrip("0123456789").encode()).hexdigest()[:16],
        kind="pretrained",
        seed=seed,
        step=0 if kind in ("random", "published") else 1000,
        backbone="alexnet",
        weights=hashlib.sha256(f"{name} {seed}".encode()).hexdigest(),
    )
    rows = rows or [
        row(stage, answers(0.4 + 0.1 * at, 10 * seed + at), 0.4 + 0.1 * at) for at, stage in enumerate(STAGES)
    ]
    first = rows[0].outcomes[0]
    made = Result(
        network=replace(network, **of_network),
        protocol="modern",
        about="all images are looked at",
        settings={"dims": 9600, "rates": [0.1, 0.01]},
        mode="cached",
        metric=first.metric,
        train="photos/train",
        test="photos/test",
        train_digest="a" * 64,
        test_digest="b" * 64,
        classes=CLASSES,
        n_fit=900,
        n_holdout=100,
        n_train=1000,
        n_test=first.count,
        fraction=1.0,
        split="holdout 10%, seed 0",
        split_sha256="c" * 64,
        view_size=96,
        view_ratio=1.0,
        precision="float32",
        storage="float16",
        seed=evaluation_seed,
        rows=tuple(rows),
        cost=Cost(12.5, 10.0, 80.0, 10**9, 10**6, "cpu"),
        code="d" * 64,
        versions={"torch": "2.15"},
        skipped=(("photos/test/cat/9.jpg", "truncated"),),
        interval="",
    )
    return replace(made, **({"interval": ABOUT[made.metric]} | changed))


def written(made: Any, how: str) -> str:
    """Tables in a format, as one text."""
    return "\n".join(map(str, made.format(how)))
