"""Scores of small images, for the tests of scores."""

from collections.abc import Callable
from pathlib import Path

from pretint.colorization import Scores, ScoreSettings, score

Make = Callable[..., Path]
"""Makes a folder."""
SIZE = 32


def score_small(models: list[Path | str], folder: Path, **changed: object) -> Scores:
    """Score models on images of ``SIZE`` pixels, with changed settings."""
    return score([str(model) for model in models], ScoreSettings(images=str(folder), size=SIZE, **changed))  # type: ignore[arg-type]


def metric_values(scores: Scores, method: str) -> dict[str, float]:
    """Return the values of a method by metric."""
    line = next(line for line in scores.lines if line.method == method)
    return {key: estimate.value for key, estimate in line.scores.items()}
