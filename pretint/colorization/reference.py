"""Color from a reference image (Welsh, Ashikhmin, Mueller 2002: Transferring Color to Greyscale Images).

The reference's L is shifted and scaled to the mean and standard deviation of the photograph's. Its samples are about
200 of its pixels, one at a random position in every cell of a grid. A pixel of the photograph takes ab of the sample
with the smallest 0.5 |difference in L| + 0.5 |difference in the standard deviation of L in a 5 x 5 window|; of samples
equal in both, the first. The publication speaks of a weighted average of luminance and standard deviation; we take the
average of the differences, because an average of the values would confuse bright and smooth with dark and rough.
Windows are cut off at the border.

With swatches (pairs of rectangles), this is done for each pair separately. Then the photograph's colored rectangles
color the rest of it: a pixel takes ab of the sample, of about 200 in each rectangle, whose 5 x 5 window of L has the
smallest sum of squared differences. So the user marks matching regions, and the search stays within one image.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import KDTree
from torch import Tensor

from pretext import roles
from pretext.color import rgb_to_lab
from pretext.data.decode import decode
from pretext.errors import UserError
from pretext.yaml_reader import read_yaml
from pretint.colorization.hints import require_file, shown
from pretint.colorization.merge import Prediction
from pretint.colorization.upscale import PIXELS, PIXELS_RANGE, AlongEdges, reduced_size

SAMPLES = 200
"""As in the publication."""

GRAY = 5.0
"""A reference has no color if every |a| and |b| is at most this."""

_WINDOW = 5
_ROWS = 1 << 14  # pixels whose windows are compared at once


class Region(NamedTuple):
    """A rectangle: its upper left pixel and its size."""

    x: int
    y: int
    width: int
    height: int

    def scaled(self, size: tuple[int, int], to: tuple[int, int]) -> "Region":
        """Return the rectangle on an image reduced from ``size`` to ``to``, (height, width); at least a pixel."""
        left, top = self.x * to[1] // size[1], self.y * to[0] // size[0]
        right = max(left + 1, (self.x + self.width) * to[1] // size[1])
        bottom = max(top + 1, (self.y + self.height) * to[0] // size[0])
        return Region(left, top, right - left, bottom - top)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns."""
        return slice(self.y, self.y + self.height), slice(self.x, self.x + self.width)


class Swatch(NamedTuple):
    """Two rectangles that belong together."""

    reference: Region
    photo: Region


@dataclass
class ReferenceSettings:
    """Settings of coloring by a reference image.

    Args:
        samples: the number of sampled pixels of the reference; 0 takes all.
        seed: the seed of the positions of the samples.
        pixels: larger images, photograph and reference, are reduced to this number of pixels; the color is then
            brought to every pixel along the edges of the photograph.
        swatches: none, or a YAML file with a list of pairs of rectangles, [x, y, width, height] in pixels, such as
            - {reference: [10, 20, 80, 60], photo: [200, 40, 50, 50]}
    """

    samples: int = roles.science(SAMPLES, "[0, 4000000]")
    seed: int = roles.seed()
    pixels: int = roles.science(PIXELS, PIXELS_RANGE)
    swatches: str = roles.science("")

    def __post_init__(self) -> None:
        roles.check_ranges(self)


class ReferenceSamples(NamedTuple):
    """The sampled pixels of an image or of a part of it."""

    features: NDArray[np.float64]
    """(n, 2): half of L, half of its standard deviation in the window."""
    ab: NDArray[np.float64]
    """(n, 2)."""


class ReferenceColorist:
    """A colorist that takes the colors of a reference image."""

    batch, takes_hints, has_distribution = 1, False, False

    def __init__(self, lab: NDArray[np.float64], size: tuple[int, int], settings: ReferenceSettings, name: str) -> None:
        self.lab = lab
        """(3, h, w), the reduced reference."""
        self.settings = settings
        self.swatches = read_swatches(Path(settings.swatches)) if settings.swatches else ()
        for swatch in self.swatches:
            _require_inside(swatch.reference, size, settings.swatches, name)
        self.boxes = [swatch.reference.scaled(size, (lab.shape[1], lab.shape[2])) for swatch in self.swatches]

    def seen_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return width and height to which an image of that width and height is reduced."""
        height, width = reduced_size(size[1], size[0], self.settings.pixels)
        return width, height

    def color_lightness(self, seen: Tensor, size: tuple[int, int]) -> Tensor:
        """Return ab, (2, h, w), float32, of a reduced image.

        Args:
            seen: (h, w), L of the reduced image.
            size: height and width of the image.
        """
        for swatch in self.swatches:
            _require_inside(swatch.photo, size, self.settings.swatches, "the photograph")
        gray = seen.double().numpy()
        if not self.swatches:
            return torch.from_numpy(match_samples(features(gray), self._samples(self.lab, gray)).astype(np.float32))
        # The rectangles take colors from the reference's rectangles, and the rest takes colors from these rectangles.
        boxes = [swatch.photo.scaled(size, (gray.shape[0], gray.shape[1])) for swatch in self.swatches]
        ab = np.empty((2, *gray.shape))
        colored = np.zeros(gray.shape, bool)
        windows, colors = [], []
        for source, box in zip(self.boxes, boxes, strict=True):
            part = gray[box.slices]
            ab[:, *box.slices] = match_samples(features(part), self._samples(self.lab[:, *source.slices], part))
            colored[box.slices] = True
        for box in boxes:  # in a second pass: if two overlap, the later one counts
            y, x = jittered(box.height, box.width, self.settings.samples, self.settings.seed)
            windows.append(_windows(gray, y + box.y, x + box.x))
            colors.append(ab[:, y + box.y, x + box.x].T)
        known, known_ab = np.concatenate(windows), np.concatenate(colors)
        y, x = np.nonzero(~colored)
        for start in range(0, len(y), _ROWS):
            part_y, part_x = y[start : start + _ROWS], x[start : start + _ROWS]
            unknown = _windows(gray, part_y, part_x)
            nearest = ((known**2).sum(1) - 2 * unknown @ known.T).argmin(1)  # |p - q|^2 less |p|^2: the same order
            ab[:, part_y, part_x] = known_ab[nearest].T
        return torch.from_numpy(ab.astype(np.float32))

    def predict(self, lightness: Tensor, size: tuple[int, int]) -> Prediction:
        """Predict as a ``Colorist``; raises a ``UserError`` for a swatch outside the photograph."""
        (seen,) = lightness[:, 0]
        return Prediction(self.color_lightness(seen, (size[1], size[0]))[None])

    def enlarged(self, ab: Tensor, lightness: Tensor, size: tuple[int, int]) -> AlongEdges:
        """Enlarge ab along the photograph's edges."""
        return AlongEdges(ab, lightness, size)

    def _samples(self, lab: NDArray[np.float64], gray: NDArray[np.float64]) -> ReferenceSamples:
        return samples_of(remapped(lab[0], gray), lab[1:], self.settings.samples, self.settings.seed)


def reference_colorist(
    reference: Image.Image, settings: ReferenceSettings | None = None, name: str = "the reference"
) -> ReferenceColorist:
    """Make a colorist of a reference image.

    Args:
        reference: mode RGB, upright.
        settings: how colors are taken.
        name: the name of the reference in errors.

    Raises:
        UserError: the reference has no color, or a swatch lies outside it or cannot be read.
    """
    settings = settings or ReferenceSettings()
    size = (reference.height, reference.width)
    to = reduced_size(*size, settings.pixels)
    small = reference if to == size else reference.resize((to[1], to[0]), Image.Resampling.BOX)
    lab = rgb_to_lab(torch.from_numpy(np.array(small)).permute(2, 0, 1)).double().numpy()
    if np.abs(lab[1:]).max() <= GRAY:
        raise UserError(f"{name}: has no color (every |a| and |b| is at most {GRAY:g}); take a colored image")
    return ReferenceColorist(lab, size, settings, name)


def open_reference(image: str, settings: ReferenceSettings | None = None) -> ReferenceColorist:
    """Open a reference image's file as a colorist.

    Raises:
        UserError: the file cannot be read; or see ``reference_colorist``.
    """
    if not image:
        raise UserError("reference: name the image, reference:IMAGE")
    require_file(Path(image), "reference")
    try:
        data = Path(image).read_bytes()
    except OSError as error:
        raise UserError(f"{image}: cannot read the reference ({error.strerror})") from error
    return reference_colorist(decode(data, image), settings, image)


def remapped(reference: NDArray[np.float64], gray: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shift and scale the reference's L to the mean and standard deviation of the photograph's."""
    spread = reference.std()
    scale = gray.std() / spread if spread > 1e-9 else 0.0
    return cast("NDArray[np.float64]", (reference - reference.mean()) * scale + gray.mean())


def features(lightness: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return half of L and half of its standard deviation in the 5 x 5 window around the pixel: (h, w, 2).

    The window is cut off at the border. The publication's distance is the sum of the differences of both.
    """
    around = _WINDOW // 2
    height, width = lightness.shape
    padded = np.pad(lightness, around)
    inside = np.pad(np.ones(lightness.shape), around)
    offsets = [(dy, dx) for dy in range(_WINDOW) for dx in range(_WINDOW)]

    def each(values: NDArray[np.float64]) -> Any:
        return (values[dy : dy + height, dx : dx + width] for dy, dx in offsets)

    count = sum(each(inside))
    mean = sum(each(padded)) / count
    # From the mean: from the sum of squares a flat part of the image would not have exactly 0.
    variance = sum(mask * (value - mean) ** 2 for value, mask in zip(each(padded), each(inside), strict=True)) / count
    return np.stack((lightness / 2, np.sqrt(variance) / 2), -1)


def jittered(height: int, width: int, samples: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return rows and columns of about ``samples`` pixels: a random one in every cell of a grid of nearly square cells.
    0 returns all pixels, and so does a number that is not below theirs."""
    if samples == 0 or samples >= height * width:
        y, x = np.divmod(np.arange(height * width), width)
        return y, x
    down = min(height, max(1, round((samples * height / width) ** 0.5)))
    across = min(width, max(1, round(samples / down)))
    down = min(height, max(1, round(samples / across)))
    random = np.random.default_rng(seed)
    rows, columns = np.arange(down + 1) * height // down, np.arange(across + 1) * width // across
    y = random.integers(np.repeat(rows[:-1], across), np.repeat(rows[1:], across))
    x = random.integers(np.tile(columns[:-1], down), np.tile(columns[1:], down))
    return y, x


def samples_of(lightness: NDArray[np.float64], ab: NDArray[np.float64], samples: int, seed: int) -> ReferenceSamples:
    """Draw samples of an image with L, (h, w), and ab, (2, h, w)."""
    y, x = jittered(lightness.shape[0], lightness.shape[1], samples, seed)
    # Without the last digits: equal parts of the image may differ in them.
    return ReferenceSamples(features(lightness)[y, x].round(9), ab[:, y, x].T)


def match_samples(pixels: NDArray[np.float64], samples: ReferenceSamples) -> NDArray[np.float64]:
    """Return ab, (2, h, w), of the nearest sample to each of the features, (h, w, 2).

    A k-d tree finds the nearest exactly. Among different samples at the same distance the choice is arbitrary.
    """
    different, first = np.unique(samples.features, axis=0, return_index=True)
    _, nearest = KDTree(different).query(pixels.reshape(-1, 2), p=1)
    return np.ascontiguousarray(samples.ab[first[nearest]].T).reshape(2, *pixels.shape[:2])


def read_swatches(path: Path) -> tuple[Swatch, ...]:
    """Read swatches from a YAML file; see ``ReferenceSettings``.

    Raises:
        UserError: the file cannot be read, or does not hold a list of pairs of rectangles.
    """
    entries = read_yaml(path)
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: no swatches; give a list of pairs of rectangles, reference and photo")
    swatches = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or entry.keys() != {"reference", "photo"}:
            raise UserError(f"{path}: swatch {number}: give reference and photo, a rectangle each")
        for name, box in entry.items():
            is_box = isinstance(box, list) and len(box) == 4 and all(type(value) is int for value in box)
            if not is_box or min(box[:2]) < 0 or min(box[2:]) < 1:
                raise UserError(
                    f"{path}: swatch {number}: {name} is {shown(box)}; a rectangle is [x, y, width, height] in pixels"
                )
        swatches.append(Swatch(Region(*entry["reference"]), Region(*entry["photo"])))
    return tuple(swatches)


def _require_inside(box: Region, size: tuple[int, int], where: str, name: str) -> None:
    if box.x + box.width > size[1] or box.y + box.height > size[0]:
        raise UserError(f"{where}: {shown(list(box))} lies outside {name}, which has {size[1]} x {size[0]} pixels")


def _windows(gray: NDArray[np.float64], y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return L around pixels, (n, 25); the border is repeated."""
    around = np.arange(_WINDOW) - _WINDOW // 2
    rows = (y[:, None] + around).clip(0, gray.shape[0] - 1)
    columns = (x[:, None] + around).clip(0, gray.shape[1] - 1)
    return cast("NDArray[np.float64]", gray[rows[:, :, None], columns[:, None, :]].reshape(len(y), -1))
