"""Files for the tests of coloring: networks at random weights, as checkpoints, and photographs."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pretext.backbones.contract import BackboneSettings
from pretext.engine.checkpoint import save_checkpoint
from pretext.methods.objectives import ObjectiveSettings
from pretext.pretrained import color_contract
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import to_plain


def write_checkpoint(path: Path, hints: bool = False, **changed: object) -> Path:
    """Save a small network that predicts distributions, or the one that takes hints and predicts one color.

    Entries of the checkpoint may be changed.
    """
    settings = PretrainSettings()
    if hints:
        regression = ObjectiveSettings(name="regression", stride=1, bounded=True)
        settings = PretrainSettings(backbone=BackboneSettings(name="siggraph17"), objective=regression)
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    model = build_colorizer(settings, prior)
    state = {"step": 7, "settings": to_plain(settings), "color": color_contract(settings, prior)}
    save_checkpoint(path, {**state, "model": model.state_dict(), **changed})
    return path


def photograph(width: int = 120, height: int = 90, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(60, 190, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encode_image(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()
