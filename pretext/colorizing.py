"""The job that colours pictures."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from pretext.color import rgb_to_lightness
from pretext.colorizer import Colorizer, join
from pretext.engine.device import pick_device
from pretext.engine.progress import progress
from pretext.errors import PictureError, UserError
from pretext.files import is_ours, write_png
from pretext.gamut import TEMPERATURE
from pretext.pictures.decode import decode
from pretext.pictures.folder import Folder
from pretext.recipe import load_pretrained
from pretext.sheet import contact_sheet

SHEET = "sheet.png"
"""The file, in the folder of results, that shows them side by side."""

_SHEET_ROWS = 24
_CELL = 320
_LARGEST = 4096
_STRIP = 256  # rows joined at once: full-resolution Lab in float32 would take a gigabyte for a large photo


@dataclass
class ColorizeSettings:
    """How pictures are coloured.

    Args:
        out: folder for the coloured pictures (PNG) and the sheet that shows them: gray, coloured, original.
        size: shorter side, in pixels, at which the network sees a picture; 0 takes the size at which it
            was trained to. The result has the full resolution of the input.
        temperature: of the annealed mean: towards 0 more vivid, 1 more cautious.
        device: auto (the GPU if there is one), cpu, cuda, ...
    """

    out: Path = field(default=Path("coloured"))
    size: int = 0
    temperature: float = TEMPERATURE
    device: str = "auto"

    def __post_init__(self) -> None:
        if not 0 <= self.size <= _LARGEST:
            raise UserError(f"size is {self.size}: it must lie in [0, {_LARGEST}]")
        if not 0 < self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}: it must be above 0, and finite")


class Coloured(NamedTuple):
    """What a call did."""

    written: list[Path]
    sheet: Path
    skipped: list[PictureError]


def colorize(model: Path, pictures: Sequence[Path], settings: ColorizeSettings) -> Coloured:
    """Colour files, and all pictures in folders.

    Args:
        model: a run or a checkpoint.
        pictures: files and folders; a picture keeps its place below its folder.
        settings: how, and where to.

    Returns:
        What was written, and which pictures were skipped because they cannot be read.

    Raises:
        UserError: a path does not exist, nothing can be read, or a result would overwrite its input.
    """
    pretrained = load_pretrained(model)
    device = pick_device(settings.device)
    colorizer = pretrained.colorizer.to(device)
    size = settings.size or pretrained.settings.view_size
    jobs = _jobs(pictures, settings.out)
    written: list[Path] = []
    rows: list[list[Image.Image]] = []
    skipped: list[PictureError] = []
    with progress("colorize", len(jobs), "pictures") as advance:
        for job in jobs:
            try:
                original = job.read()
            except PictureError as error:
                skipped.append(error)
                advance(1, "")
                continue
            coloured = colorize_picture(colorizer, original, size, settings.temperature)
            write_png(job.target, coloured)
            written.append(job.target)
            if len(rows) < _SHEET_ROWS:
                small = [ImageOps.contain(picture, (_CELL, _CELL)) for picture in (original, coloured)]
                rows.append([small[0].convert("L").convert("RGB"), small[1], small[0]])
            advance(1, "")
    if not written:
        raise UserError(f"none of {len(jobs)} pictures can be read; the first: {skipped[0]}")
    sheet = settings.out / SHEET
    write_png(sheet, contact_sheet(rows, ("gray", "coloured", "original"), cell=_CELL, across=1 + (len(rows) > 4)))
    return Coloured(written, sheet, skipped)


def colorize_picture(
    colorizer: Colorizer, picture: Image.Image, size: int, temperature: float = TEMPERATURE
) -> Image.Image:
    """Colour one picture.

    Args:
        colorizer: in eval mode, on any device.
        picture: mode RGB; only its lightness is used, at full resolution.
        size: shorter side at which the network sees it.
        temperature: of the annealed mean.

    Returns:
        RGB, of the picture's size, with the picture's own L. (A predicted colour that sRGB does not have
        at that L is clipped, which moves L too.)
    """
    device = next(colorizer.parameters()).device
    scale, fit = size / min(picture.size), colorizer.backbone.fit_size
    # A very long picture is seen shortened: the network's memory grows with the area it sees.
    seen = [fit(min(8 * size, max(1, math.ceil(side * scale)))) for side in picture.size]
    small = _tensor(picture.resize((seen[0], seen[1]), Image.Resampling.BICUBIC, reducing_gap=3.0)).to(device)
    ab = colorizer.colorize(rgb_to_lightness(small), temperature)
    full = np.asarray(picture)
    result = np.empty_like(full)
    height, width = full.shape[:2]
    for top in range(0, height, _STRIP):
        rows = slice(top, min(top + _STRIP, height))
        lightness = rgb_to_lightness(torch.from_numpy(full[rows].copy()).permute(2, 0, 1)[None].to(device))
        rgb = join(lightness, _enlarged_rows(ab, rows, height, width))
        result[rows] = (rgb[0] * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(result)


class _Job(NamedTuple):
    """A picture to colour, and where the result goes."""

    read: Callable[[], Image.Image]
    target: Path


def _jobs(pictures: Sequence[Path], out: Path) -> list[_Job]:
    """Every picture's job. No result takes the place of another, nor of a picture that was given."""
    inputs = {path.resolve() for path in pictures}
    taken = {out / SHEET}
    jobs = []
    for path in pictures:
        if path.is_dir():
            if out.resolve().is_relative_to(path.resolve()):
                raise UserError(f"{out}: lies in {path}, whose pictures are coloured; name a folder outside with --out")
            folder = Folder(path)
            found = [(partial(folder.read, index), Path(folder.key(index))) for index in range(len(folder))]
        elif path.is_file():
            found = [(partial(_read, path), Path(path.name))]
        else:
            raise UserError(f"{path}: no such file or folder")
        for read, place in found:
            target, number = (out / place).with_suffix(".png"), 2
            while target in taken:
                target = (out / place).with_name(f"{place.stem}-{number}.png")
                number += 1
            taken.add(target)
            jobs.append(_Job(read, target))
    for target in taken:
        if target.resolve() in inputs:
            raise UserError(f"{target}: a result would take the place of a picture; name another folder with --out")
    for target in taken:
        if target.exists() and not is_ours(target):
            raise UserError(f"{target}: exists, and was not made by pretint; name another folder with --out")
    return jobs


def _read(path: Path) -> Image.Image:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PictureError(str(path), f"cannot be read ({error.strerror})") from error
    return decode(data, str(path))


def _enlarged_rows(ab: torch.Tensor, rows: slice, height: int, width: int) -> torch.Tensor:
    """Some rows of ``F.interpolate(ab, (height, width), mode="bilinear")``, without the others."""
    at = (torch.arange(rows.start, rows.stop, device=ab.device) + 0.5) * (ab.shape[2] / height) - 0.5
    above = at.clamp(0, ab.shape[2] - 1)
    first = above.floor().long()
    share = (above - first)[:, None]
    mixed = ab[:, :, first] * (1 - share) + ab[:, :, (first + 1).clamp_max(ab.shape[2] - 1)] * share
    return F.interpolate(mixed, size=(len(at), width), mode="bilinear", align_corners=False)


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
