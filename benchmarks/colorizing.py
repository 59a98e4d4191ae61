"""Colouring a 12-megapixel JPEG, everything but the network: time and memory.

Ours is what ``pretint colorize`` does: open, reduce for the network, join colours (256 x 341, as a network gives them)
to the full-resolution lightness, write a JPEG of quality 95, 4:4:4. The plain way is the same by scikit-image, whole
pictures in float64: ``rgb2lab``, colours enlarged, ``lab2rgb``. The floor is only decoding and encoding the file.
Memory is the peak beyond what is there before; see ``benchmarks.loss``.
"""

import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.paired import Row, paired, spread, times_as_fast
from benchmarks.pictures import jpegs
from colorization.photographs import open_photograph
from colorization.photographs.writing import QUALITY, in_memory
from pretext.color import rgb_to_lightness
from pretext.engine.memory import forget_peak, peak

_SIZE = (4000, 3000)
_SEEN = (341, 256)


def rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """Time against both, and memory; of a JPEG in colour and of a gray one. All of it is the CPU's work."""
    from skimage.color import lab2rgb, rgb2lab

    device = torch.device("cpu")
    ab = F.interpolate(torch.randn(1, 2, 8, 10, generator=torch.Generator().manual_seed(0)) * 25, _SEEN[::-1])
    for kind, mode in (("RGB", "RGB"), ("gray", "L")):
        file = _mosaic(mode)

        def ours(file: bytes = file) -> None:
            photograph = open_photograph(file, "mosaic")
            photograph.seen(_SEEN)
            in_memory(photograph, ab, "jpeg")

        def plain(file: bytes = file) -> None:
            picture = Image.open(io.BytesIO(file)).convert("RGB")
            small = np.array(picture.resize(_SEEN, Image.Resampling.BICUBIC))
            rgb_to_lightness(torch.from_numpy(small).permute(2, 0, 1)[None])
            lab = rgb2lab(np.asarray(picture))
            lab[..., 1:] = F.interpolate(ab.double(), _SIZE[::-1], mode="bilinear")[0].permute(1, 2, 0).numpy()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of colours that are clipped
                result = np.rint(lab2rgb(lab) * 255).astype(np.uint8)
            _save(Image.fromarray(result))

        def floor(file: bytes = file) -> None:
            _save(Image.open(io.BytesIO(file)).convert("RGB"))

        setting = f"12-megapixel {kind} JPEG"
        yield times_as_fast(
            "colorizing but the network", setting, "scikit-image", *paired(ours, plain, device, rounds), target=5
        )
        yield times_as_fast(
            "colorizing but the network", setting, "decoding and encoding alone", *paired(ours, floor, device, rounds),
            target=0.4,
        )  # fmt: skip
        if not Path("/proc/self/clear_refs").exists():
            yield Row("memory of the same", setting, "scikit-image", "MB", None, None, None, remark="skipped: no Linux")
            continue
        one, other = (spread([_peak(job, device) for _ in range(3)]) for job in (ours, plain))
        ratio = spread([other.low / one.high, other.median / one.median, other.high / one.low])
        yield Row("memory of the same", setting, "scikit-image", "MB", one, other, ratio, 4)


def _peak(job: Callable[[], None], device: torch.device) -> float:
    forget_peak(device)
    before = peak()
    job()
    return (peak() - before) / 1e6


def _save(picture: Image.Image) -> None:
    picture.save(io.BytesIO(), "JPEG", quality=QUALITY, subsampling=0)


def _mosaic(mode: str) -> bytes:
    """A JPEG of quality 90 made of real pictures, each at 500 pixels."""
    whole = Image.new("RGB", _SIZE)
    cells = [(x, y) for y in range(0, _SIZE[1], 500) for x in range(0, _SIZE[0], 500)]
    for cell, data in zip(cells, jpegs(len(cells), 500), strict=True):
        whole.paste(Image.open(io.BytesIO(data)).crop((0, 0, 500, 500)), cell)
    buffer = io.BytesIO()
    whole.convert(mode).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
