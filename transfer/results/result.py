"""A result: what one network is worth by one protocol on one data set."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pretext.errors import UserError
from transfer.bootstrap import Metric
from transfer.metrics import Row, Weighted
from transfer.results.plain import short

PREFIX = "rescaled:"
"""Before a network's name on the command line: it is rescaled to the training images first."""
RESCALED = "rescaled "
"""What the names of such networks begin with."""

Mode = Literal["cached", "augmented", "fine-tuned"]
"""Of frozen features that were kept, or of fresh crops; or of a network that was trained further."""


@dataclass(frozen=True)
class Judged:
    """The network that was judged; the words are those of ``transfer.networks.Network``."""

    name: str
    group: str
    """What it has in common with the same network at other seeds."""
    kind: str
    """random, pretrained, supervised or published."""
    seed: int
    step: int
    backbone: str
    weights: str
    """SHA-256 of its weights."""

    @property
    def rescaled(self) -> bool:
        """Whether it was rescaled before it was fine-tuned, and so is another network than the one of its name."""
        return self.name.startswith(RESCALED)


@dataclass(frozen=True)
class Cost:
    """What it took."""

    seconds: float
    extraction_seconds: float
    """Of them, in the network: in this call and in the earlier ones that filled the cache."""
    images_per_second: float
    peak_bytes: int
    cache_bytes: int
    device: str


@dataclass(frozen=True)
class Result:
    """One network by one protocol, in one mode, on one data set; a row per stage and variant."""

    network: Judged
    protocol: str
    about: str
    """The protocol in a sentence."""
    settings: dict[str, Any]
    """The protocol's; plain values."""
    mode: Mode
    metric: Metric
    train: str
    test: str
    train_digest: str
    """Over the images' names and labels, and the pixels of some of them: see ``transfer.targets``."""
    test_digest: str
    classes: tuple[str, ...]
    n_fit: int
    n_holdout: int
    n_train: int
    n_test: int
    """Test images that could be read: N of every outcome."""
    fraction: float
    """Of the training images whose labels were used."""
    split: str
    split_sha256: str
    view_size: int
    """Pixels; 0 of a fine-tuned network that saw every test image at its own size."""
    view_ratio: float
    precision: str
    storage: str
    """Of the kept features: float16 or float32."""
    seed: int
    """Of the evaluation."""
    rows: tuple[Row, ...]
    cost: Cost
    code: str
    """SHA-256 of the code: see ``code_digest``."""
    versions: dict[str, str]
    skipped: tuple[tuple[str, str], ...]
    """Key and reason of the images that could not be read; of fine-tuning also what else is wrong with the images
    and what is said of them; which of it training met is a matter of chance."""
    interval: str
    """What the intervals are."""
    n_shared: int = 0
    """Test images that are also training images; 0 of results from before they were counted."""
    file: str = field(default="", compare=False)
    """Where it was read from."""

    @property
    def best(self) -> str | None:
        """Name of the row that did best on the held-out part; None where that chooses nothing.

        Low-shot rows are given other images each: none of them is the best.
        """
        chosen = [row for row in self.rows if row.holdout is not None]
        if not chosen or any(len(row.outcomes) > 1 for row in self.rows):
            return None
        return max(chosen, key=lambda row: row.holdout or 0.0).name

    @property
    def counted(self) -> str | None:
        """What is counted of each class: "objects", "images", "pixels"; None where there is no number by class."""
        first = self.rows[0].outcomes[0]
        return first.counted if isinstance(first, Weighted) else None

    def row(self, name: str) -> Row:
        """The row of a name."""
        return next(row for row in self.rows if row.name == name)


def evaluation(result: Result) -> list[tuple[str, Any]]:
    """What must be equal for two results to stand in one table, by name; plain values."""
    return [
        ("protocol", result.protocol),
        ("protocol settings", json.dumps(result.settings, sort_keys=True)),
        ("metric", result.metric),
        ("test data", result.test_digest),
        ("training data", result.train_digest),
        ("share of the labels", result.fraction),
        ("test images", result.n_test),
        ("training images", result.n_train),
        ("classes", list(result.classes)),
        ("part of an image that is seen", result.view_ratio),
        ("unreadable images", [] if result.mode == "fine-tuned" else sorted(key for key, _ in result.skipped)),
    ]


def require_comparable(results: Sequence[Result]) -> None:
    """Refuse to put numbers of different meaning side by side.

    Raises:
        UserError: not all have the same protocol, data and metric; it names the first difference.
    """
    for other in results[1:]:
        for (name, first), (_, second) in zip(evaluation(results[0]), evaluation(other), strict=True):
            if first != second:
                shown = [
                    {
                        "test data": f"{r.test} ({r.test_digest[:8]})",
                        "training data": f"{r.train} ({r.train_digest[:8]})",
                    }
                    for r in (results[0], other)
                ]
                was, now = (one.get(name, short(value)) for one, value in zip(shown, (first, second), strict=True))
                raise UserError(
                    f"{_where(other)} cannot be compared with {_where(results[0])}: other {name}: "
                    f"{now} instead of {was}; evaluate both in the same way"
                )


def _where(result: Result) -> str:
    return result.file or result.network.name
