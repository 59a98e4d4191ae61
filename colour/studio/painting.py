"""How the studio colours: the one place where it meets networks, and the methods that need none."""

import importlib.util
import inspect
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pretext.color import rgb_to_ab, rgb_to_lightness
from pretext.colorizer import join, resample
from pretext.engine.device import pick_device
from pretext.errors import UserError
from pretext.objectives import Regression
from pretext.recipe import load_pretrained

_STRIP = 256  # rows joined at once, as pretext.colorizing does
_LONG = 8  # how many times as long as wide a picture is seen: beyond, it is seen shortened

ByReference = Callable[[Image.Image], Callable[[Tensor], Tensor]]
"""A reference picture -> what gives the ab of L, (1, 1, h, w) -> (1, 2, h, w)."""


class Hint(NamedTuple):
    """A colour that somebody knows."""

    x: float
    """In pixels of the photograph."""
    y: float
    radius: float
    a: float
    b: float


class Seen(NamedTuple):
    """What the network made of a photograph, before it is decoded to colours."""

    output: Tensor
    """(1, channels, h, w)."""
    size: tuple[int, int]
    """Height and width at which the photograph was seen."""


class Painter:
    """A network that colours.

    Args:
        model: a run or a checkpoint.
        device: auto, cpu, cuda, ...
        size: shorter side at which it sees a photograph; 0 takes the size at which it was trained to.

    Raises:
        UserError: there is no such network, or it has no colours.
    """

    def __init__(self, model: Path, device: str = "auto", size: int = 0) -> None:
        pretrained = load_pretrained(model)
        if not pretrained.has_head:
            raise UserError(f"{model}: these weights have no colour head; they colour nothing")
        self.name = model.name
        self.network = pretrained.settings.backbone.name
        self.device = pick_device(device)
        self.colorizer = pretrained.colorizer.to(self.device)
        self.size = size or pretrained.settings.view_size

    @property
    def takes_hints(self) -> bool:
        """Whether it can be told colours."""
        return "hints" in inspect.signature(self.colorizer.backbone.forward).parameters

    @property
    def has_temperature(self) -> bool:
        """Whether it says a distribution of colours, from which a temperature picks."""
        return not isinstance(self.colorizer.objective, Regression)

    @torch.inference_mode()
    def see(self, picture: Image.Image, hints: Sequence[Hint] = ()) -> Seen:
        """Run the network: what takes time.

        Args:
            picture: mode RGB; only its lightness is used.
            hints: colours that are known, for a network that takes them; of two at a place the later counts.

        Raises:
            UserError: it takes no hints, or one lies outside the picture.
        """
        scale, fit = self.size / min(picture.size), self.colorizer.backbone.fit_size
        width, height = (fit(min(_LONG * self.size, max(1, math.ceil(side * scale)))) for side in picture.size)
        small = picture.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
        lightness = rgb_to_lightness(_tensor(small).to(self.device))
        if not hints:
            return Seen(self.colorizer(lightness), (height, width))
        if not self.takes_hints:
            raise UserError(f"{self.network} takes no hints; siggraph17 does")
        ab, mask = hint_maps(hints, picture.size, (height, width))
        backbone: Any = self.colorizer.backbone  # of the contract only some take more than lightness
        features = backbone.forward(lightness, ab.to(self.device), mask.to(self.device))
        return Seen(self.colorizer.output(features, (height, width)), (height, width))

    @torch.inference_mode()
    def colours(self, seen: Seen, temperature: float) -> Tensor:
        """ab of what was seen, (1, 2, h, w), unscaled, on the CPU: cheap, and all that a temperature needs."""
        ab = self.colorizer.objective.decode(seen.output, temperature)
        return resample(ab, self.colorizer.target_stride, seen.size).cpu()


def by_reference() -> ByReference | None:
    """The method of Welsh et al. (2002), where this installation has it."""
    if importlib.util.find_spec("colour.methods") is None:
        return None
    return cast("ByReference", import_module("colour.methods.reference").reference_colourist)


def reference_colours(method: ByReference, picture: Image.Image, reference: Image.Image) -> Tensor:
    """ab of a picture after a reference, (1, 2, H, W), unscaled; a `UserError` where that has no colour."""
    return method(reference)(rgb_to_lightness(_tensor(picture)))


def painted(picture: Image.Image, ab: Tensor, saturation: float = 1.0) -> Image.Image:
    """A picture's own lightness with new colours.

    Args:
        picture: mode RGB.
        ab: (1, 2, h, w), of any size; enlarged as pixels are.
        saturation: what a and b are multiplied by; 0 is gray.
    """
    width, height = picture.size
    full = np.asarray(picture)
    result = np.empty_like(full)
    ab = ab * saturation
    for top in range(0, height, _STRIP):
        rows = slice(top, min(top + _STRIP, height))
        lightness = rgb_to_lightness(torch.from_numpy(full[rows].copy()).permute(2, 0, 1)[None])
        rgb = join(lightness, _enlarged(ab, rows, height, width))
        result[rows] = (rgb[0] * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(result)


def hint_maps(hints: Sequence[Hint], size: tuple[int, int], seen: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Hints as the network takes them.

    Args:
        hints: in pixels of the photograph.
        size: width and height of the photograph.
        seen: height and width at which the network sees it.

    Returns:
        ab, (1, 2, h, w), and mask, (1, 1, h, w): a square for each, of at least one pixel.
    """
    ab, mask = torch.zeros(1, 2, *seen), torch.zeros(1, 1, *seen)
    for hint in hints:
        if not (0 <= hint.x < size[0] and 0 <= hint.y < size[1]):
            raise UserError(f"a hint lies outside the picture: ({hint.x:.0f}, {hint.y:.0f}) of {size[0]} x {size[1]}")
        columns = _span(hint.x, hint.radius, size[0], seen[1])
        rows = _span(hint.y, hint.radius, size[1], seen[0])
        ab[0, :, rows, columns] = torch.tensor((hint.a, hint.b))[:, None, None]
        mask[0, :, rows, columns] = 1
    return ab, mask


def ab_of(colour: str) -> tuple[float, float]:
    """a and b of #rrggbb."""
    rgb = torch.tensor([int(colour[at : at + 2], 16) for at in (1, 3, 5)], dtype=torch.uint8)
    a, b = rgb_to_ab(rgb[:, None, None])[:, 0, 0].tolist()
    return a, b


def _span(at: float, radius: float, side: int, seen: int) -> slice:
    scale = seen / side
    middle = min(seen - 1, int(at * scale))
    reach = int(radius * scale)
    return slice(max(0, middle - reach), min(seen, middle + reach + 1))


def _enlarged(ab: Tensor, rows: slice, height: int, width: int) -> Tensor:
    """Some rows of ``F.interpolate(ab, (height, width), mode="bilinear")``: full-size colours would take gigabytes."""
    at = (torch.arange(rows.start, rows.stop) + 0.5) * (ab.shape[2] / height) - 0.5
    above = at.clamp(0, ab.shape[2] - 1)
    first = above.floor().long()
    share = (above - first)[:, None]
    mixed = ab[:, :, first] * (1 - share) + ab[:, :, (first + 1).clamp_max(ab.shape[2] - 1)] * share
    return F.interpolate(mixed, size=(len(at), width), mode="bilinear", align_corners=False)


def _tensor(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
