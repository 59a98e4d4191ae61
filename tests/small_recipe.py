"""A small recipe on the built-in tiles, of which the cost is estimated."""

from typing import Any

from pretext.recipe import PretrainSettings
from pretext.settings import settings_from


def settings(**changed: Any) -> PretrainSettings:
    """Return the recipe, with groups of settings changed."""
    values: dict[str, Any] = {
        "crop": {"size": 32},
        "objective": {"stride": 4, "prior_images": 20},
        "training": {"steps": 45, "batch_size": 8, "warmup": 1, "ema": 0.9},
        "machine": {"workers": 0, "device": "cpu", "evaluate_every": 20, "checkpoint_every": 10},
        "data": {"source": "bundled", "holdout": 40},
    }
    return settings_from(PretrainSettings, {**values, **changed}, "test")
