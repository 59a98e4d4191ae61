"""The same images as every variant of a study colors them, on one sheet."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F

from pretext.color import rgb_to_lightness
from pretext.contact_sheet import contact_sheet
from pretext.data import Source, open_source
from pretext.data.batches import Views
from pretext.engine.run import run_settings
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.methods.colorizer import join
from pretint.colorization.networks import NetworkColorist, open_network
from pretint.study.cells import Shelf
from pretint.study.plan import Plan

SHEET = "figures.png"
_FORMAT = 1  # raised when a sheet looks different
_COUNT = 8
_SIDES = 128, 224  # pixels of an image, at least and at most
_WIDE = 1500  # pixels that a sheet keeps to, where its images stay large enough to be seen
_CELLS = 96, 160
_LETTER = 7.2  # pixels
_MADE_OF = "made of"  # a text in the file


class Figures(NamedTuple):
    """A sheet of images."""

    file: Path | None
    about: str
    remark: str
    """Why there is none, or why it is one of an earlier time; empty else."""


def figures(plan: Plan, shelf: Shelf, folder: Path) -> Figures:
    """Draw the sheet, if it is not drawn already, from the first finished seed of each variant that colors.

    Args:
        plan: its cells.
        shelf: of the cells.
        folder: of the study; the sheet is kept there.
    """
    runs = _runs(plan, shelf)
    file = folder / SHEET
    if not runs:
        return Figures(None, "", "no variant that colors is finished")
    name = _source(plan, next(iter(runs.values())))
    about = f"images of {name}"
    try:
        source = open_source(name)
        made_of = json.dumps([_FORMAT, name, source.digest(), {variant: run.name for variant, run in runs.items()}])
        if _kept(file) != made_of:
            text = PngInfo()
            text.add_itxt(_MADE_OF, made_of)
            data = io.BytesIO()
            _sheet(source, runs).save(data, "PNG", pnginfo=text)
            write_atomically(file, data.getvalue())
    except UserError as error:
        if _kept(file) is None:
            return Figures(None, about, f"they cannot be had: {error}")
        return Figures(file, about, f"a sheet of an earlier time, as it cannot be drawn anew: {error}")
    return Figures(file, about, "")


def _runs(plan: Plan, shelf: Shelf) -> dict[str, Path]:
    found = {}
    for variant in plan.variants:
        for cell in plan.of(variant, ""):
            if variant not in found and shelf.finished(cell) and _colors_images(shelf.folder(cell)):
                found[variant] = shelf.folder(cell)
    return found


def _colors_images(run: Path) -> bool:
    """Whether a run is known to be one that colors."""
    try:
        settings = run_settings(run, {"objective.name": str, "data.source": object})
    except UserError:  # which is said beside the costs
        return False
    return bool(settings["objective"]["name"] != "labels")


def _source(plan: Plan, run: Path) -> str:
    """The study's own images, else those that colors are scored on, else those of the pretraining."""
    scored = [str(asked.get("images", "")) for asked in plan.evaluations.values() if asked.get("command") == "score"]
    trained = run_settings(run)["data"]["source"]
    first = next(iter(trained), "") if isinstance(trained, dict) else str(trained)
    return next(name for name in (plan.figures, *scored, first, "bundled:test") if name)


def _kept(file: Path) -> str | None:
    """What a sheet was made of; None if there is none."""
    try:
        with Image.open(file) as sheet:
            return str(sheet.info.get(_MADE_OF, ""))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _sheet(source: Source, runs: Mapping[str, Path]) -> Image.Image:
    networks = {variant: open_network(run, device="cpu") for variant, run in runs.items()}
    side = min(max(_SIDES[0], *(network.size for network in networks.values())), _SIDES[1])
    rows = []
    for view in _views(source, side):
        lightness = rgb_to_lightness(view[None])
        gray = join(lightness, torch.zeros(1, 2, side, side))
        colored = [join(lightness, _colors(network, lightness)) for network in networks.values()]
        rows.append([_image(one[0]) for one in (gray, *colored, view[None] / 255)])
    if not rows:
        raise UserError("none of these images can be read")
    cell = min(max(_WIDE // (len(networks) + 2), _CELLS[0]), _CELLS[1])
    titles = [_cut(title, int(cell / _LETTER)) for title in ("gray", *networks, "original")]
    return contact_sheet(rows, titles, cell=cell, across=2 if 2 * cell * len(titles) <= _WIDE else 1)


def _views(source: Source, side: int) -> list[Tensor]:
    """Some images from all over the source, uint8 (3, side, side); what cannot be read is passed over."""
    views = Views(source, side)
    spread = np.unique(np.linspace(0, len(source) - 1, min(len(source), 4 * _COUNT)).astype(int)).tolist()
    order = [index for start in range(4) for index in spread[start::4]]
    found: list[Tensor] = []
    for index in order:
        image = views[index].rgb
        if image is not None:
            found.append(image)
        if len(found) == _COUNT:
            break
    return found


def _colors(network: NetworkColorist, lightness: Tensor) -> Tensor:
    """ab, (1, 2, h, w), of L, (1, 1, h, w)."""
    height, width = lightness.shape[-2:]
    across, down = network.seen_size((width, height))
    seen = F.interpolate(lightness, (down, across), mode="bilinear", antialias=True)
    return F.interpolate(network(seen).float(), (height, width), mode="bilinear")


def _image(rgb: Tensor) -> Image.Image:
    return Image.fromarray((rgb.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())


def _cut(title: str, letters: int) -> str:
    return title if len(title) <= letters else f"{title[: letters - 2]}.."
