"""Coloring a 12-megapixel JPEG, everything but the network: time and memory.

Ours is what ``pretint colorize`` does: open, reduce for the network, join colors (256 x 341, as a network gives them)
to the full-resolution lightness, write a JPEG of quality 95, 4:4:4. The plain way is the same by scikit-image, whole
images in float64: ``rgb2lab``, colors enlarged, ``lab2rgb``. The floor is only decoding and encoding the file.
Memory is the peak beyond what is there before, in a process of its own.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.color import lab2rgb, rgb2lab
from torch import Tensor
from torch.nn import functional as F

from benchmarks.images import jpegs
from benchmarks.paired import Row, paired, spread, times_as_fast
from pretext.color import rgb_to_lightness
from pretext.engine.memory import peak_memory, reset_peak_memory
from pretint.colorization.photographs import open_photograph
from pretint.colorization.photographs.write import QUALITY, encode_photograph

_SIZE = (4000, 3000)
_SEEN = (341, 256)


def rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """Time against both, and memory; of a JPEG in color and of a gray one. All of it is the CPU's work."""
    device = torch.device("cpu")
    for kind, mode in (("RGB", "RGB"), ("gray", "L")):
        file = _mosaic(mode, _SIZE)
        mine, theirs, least = (partial(job, file) for job in (ours, plain, floor))
        setting = f"12-megapixel {kind} JPEG"
        yield times_as_fast(
            "colorizing but the network", setting, "scikit-image", *paired(mine, theirs, device, rounds), target=5
        )
        yield times_as_fast(
            "colorizing but the network", setting, "decoding and encoding alone", *paired(mine, least, device, rounds),
            target=0.4,
        )  # fmt: skip
        if not Path("/proc/self/clear_refs").exists():
            yield Row("memory of the same", setting, "scikit-image", "MB", None, None, None, remark="skipped: no Linux")
            continue
        # In processes of their own: here, what was freed before would be used again, and not be seen.
        with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
            one, other = (spread([pool.submit(_peak, job, file).result() for _ in range(3)]) for job in (ours, plain))
        ratio = spread([other.low / one.high, other.median / one.median, other.high / one.low])
        yield Row("memory of the same", setting, "scikit-image", "MB", one, other, ratio, 4)


def ours(file: bytes) -> None:
    """As ``pretint colorize`` does it."""
    photograph = open_photograph(file, "mosaic")
    photograph.seen(_SEEN)
    encode_photograph(photograph, _colors(), "jpeg")


def plain(file: bytes) -> None:
    """By scikit-image, on whole images."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    small = np.array(image.resize(_SEEN, Image.Resampling.BICUBIC))
    rgb_to_lightness(torch.from_numpy(small).permute(2, 0, 1)[None])
    lab = rgb2lab(np.asarray(image))
    size = (image.height, image.width)
    lab[..., 1:] = F.interpolate(_colors().double(), size, mode="bilinear")[0].permute(1, 2, 0).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of colors that are clipped
        result = np.rint(lab2rgb(lab) * 255).astype(np.uint8)
    _save(Image.fromarray(result))


def floor(file: bytes) -> None:
    """Nothing but the file."""
    _save(Image.open(io.BytesIO(file)).convert("RGB"))


def _peak(job: Callable[[bytes], None], file: bytes) -> float:
    """MB beyond what is there once everything is loaded."""
    job(_mosaic("RGB", (64, 48)))
    device = torch.device("cpu")
    reset_peak_memory(device)
    before = peak_memory()
    job(file)
    return (peak_memory() - before) / 1e6


@cache
def _colors() -> Tensor:
    """As a network gives them."""
    coarse = torch.randn(1, 2, 8, 10, generator=torch.Generator().manual_seed(0)) * 25
    return F.interpolate(coarse, _SEEN[::-1], mode="bilinear")


def _save(image: Image.Image) -> None:
    image.save(io.BytesIO(), "JPEG", quality=QUALITY, subsampling=0)


def _mosaic(mode: str, size: tuple[int, int]) -> bytes:
    """A JPEG of quality 90 made of real images, each at 500 pixels."""
    whole = Image.new("RGB", size)
    cells = [(x, y) for y in range(0, size[1], 500) for x in range(0, size[0], 500)]
    for cell, data in zip(cells, jpegs(len(cells), 500), strict=True):
        whole.paste(Image.open(io.BytesIO(data)).crop((0, 0, 500, 500)), cell)
    buffer = io.BytesIO()
    whole.convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
