"""Truth and predictions drawn into an image: words, boxes, masks; and sheets of such images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from pretext.contact_sheet import contact_sheet
from pretext.data.source import ImageDataset
from transfer.tasks.task import Task

SIDE = 225
"""Shorter side, in pixels, of a drawn image, so that words are readable also on small images."""

_GOOD, _BAD = "#0072b2", "#d55e00"  # blue and vermilion: color-blind readers can distinguish them, too
_SHOWN = 8  # images of a sheet
_MIX = 0.6  # of a class's color in a mask


def color(number: int) -> tuple[int, int, int]:
    """Return a class's color in PASCAL VOC's masks: its bits, from the lowest, are the high bits of R, G, B."""
    channels = [0, 0, 0]
    for place in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
    return channels[0], channels[1], channels[2]


def draw_words(image: Image.Image, words: Sequence[tuple[str, bool]]) -> Image.Image:
    """Return an image with words below one another, each right or wrong."""
    drawn = _enlarged(image)
    draw, font, y = ImageDraw.Draw(drawn), _font(15), 4.0
    for word, right in words:
        y = _label(draw, (4, y), word, _GOOD if right else _BAD, font) + 3
    return drawn


def draw_boxes(
    image: Image.Image, boxes: NDArray[np.float32], words: Sequence[str], colors: Sequence[tuple[int, int, int]]
) -> Image.Image:
    """Return an image with boxes, (n, 4) xyxy in its pixels, and a word at each."""
    drawn = _enlarged(image)
    scale = drawn.width / image.width
    draw, font = ImageDraw.Draw(drawn), _font(13)
    for box, word, shade in zip(boxes, words, colors, strict=True):
        left, top, right, bottom = (float(side) * scale for side in box)
        draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=shade, width=3)
        _label(draw, (left, min(max(0.0, top - 16), drawn.height - 17)), word, shade, font)
    return drawn


def draw_mask(image: Image.Image, mask: NDArray[np.uint8], classes: Sequence[str]) -> Image.Image:
    """Return an image with a mask of its size: classes in their colors, with names; 255 (uncounted) in white."""
    palette = np.array([color(number) for number in range(256)], np.float32)
    palette[255] = 255
    rgb = np.asarray(image, np.float32)
    shown = mask > 0
    mixed = np.where(shown[..., None], (1 - _MIX) * rgb + _MIX * palette[mask], rgb)
    drawn = _enlarged(Image.fromarray(mixed.round().astype(np.uint8)))
    draw, font, y = ImageDraw.Draw(drawn), _font(13), 4.0
    numbers, counts = np.unique(mask[shown & (mask < 255)], return_counts=True)
    for number in numbers[np.argsort(-counts)][:4].tolist():
        y = _label(draw, (4, y), classes[number], color(number), font) + 3
    return drawn


def _enlarged(image: Image.Image) -> Image.Image:
    factor = SIDE / min(image.size)
    return ImageOps.scale(image, factor, Image.Resampling.LANCZOS) if factor > 1 else image.copy()


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def _label(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    word: str,
    ground: str | tuple[int, int, int],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> float:
    """Draw a word on a colored background; return its lower end."""
    left, top, right, bottom = draw.textbbox(at, word, font=font)
    draw.rectangle((left - 3, top - 2, right + 3, bottom + 2), fill=ground)
    light = not isinstance(ground, str) and sum(w * c for w, c in zip((0.3, 0.59, 0.11), ground, strict=True)) > 140
    draw.text(at, word, fill="black" if light else "white", font=font)
    return float(bottom + 2)


def sheet(task: Task, source: ImageDataset, results: dict[int, Any]) -> Image.Image:
    """Return a sheet of some predicted images, spread over all: with the truth, and with the prediction."""
    indices = sorted(results)
    step = max(1, len(indices) // _SHOWN)
    rows = [task.drawn(source, index, results[index]) for index in indices[::step][:_SHOWN]]
    return contact_sheet(rows, ("truth", "found"), cell=(300, 225), across=2)
