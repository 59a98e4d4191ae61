"""Images of named channels, of any depth: ``channels:NAMES:SOURCE``.

Elsewhere images are sRGB of 8 bits. Here an image has the values that its file holds, one channel for each name.
"""

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pretext.data.folder import ClassFolder, Folder
from pretext.data.formats import ARRAYS
from pretext.data.pack_manifest import read_manifest
from pretext.data.packed_tiff import read_packed
from pretext.data.planes import read_planes
from pretext.data.shards import Shards, names_shards
from pretext.data.source import FileSource, ImageDataset, LabeledDataset, Labels, StoredDataset
from pretext.errors import ImageError, UserError
from pretext.scale import GRAY, SRGB

MOST = 32
NAME = re.compile(r"[A-Za-z][\w.-]{0,31}")  # a + joins names
_HOW = "write channels:NAMES:SOURCE, such as channels:B02,B03,B04,B08:patches"


class ChannelImage:
    """An image of float32 channels, with those of Pillow's methods that crops need.

    Args:
        planes: the channels, each in Pillow's mode F.
        unit: whether its values are clipped to [0, 1], beyond which a bicubic resize reaches.
    """

    def __init__(self, planes: Sequence[Image.Image], unit: bool = False) -> None:
        self._planes, self._unit = planes, unit
        self.width, self.height = self.size = planes[0].size

    @property
    def nbytes(self) -> int:
        """The memory of its values."""
        return 4 * self.width * self.height * len(self._planes)

    @classmethod
    def of(cls, values: NDArray[np.float32], unit: bool = False) -> "ChannelImage":
        """Return the image of values (H, W, C)."""
        return cls([Image.fromarray(np.ascontiguousarray(plane)) for plane in np.moveaxis(values, -1, 0)], unit)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[np.float32]:
        """Return the values, float32 (H, W, C)."""
        values = np.stack([np.asarray(plane) for plane in self._planes], -1)
        return values.clip(0, 1, out=values) if self._unit else values

    def tobytes(self) -> bytes:
        """Return the values, plane by plane."""
        return b"".join(plane.tobytes() for plane in self._planes)

    def resize(self, size: tuple[int, int], resample: Image.Resampling, **options: Any) -> "ChannelImage":
        """See ``PIL.Image.Image.resize``; a pixel that is computed from a NaN is NaN."""
        if not self._unit or resample == Image.Resampling.BILINEAR:  # which stays between the values
            return ChannelImage([plane.resize(size, resample, **options) for plane in self._planes], self._unit)
        # Pillow resizes bytes in two passes, and clips after each.
        left, top, right, bottom = options.pop("box", (0, 0, *self.size))
        planes = []
        for plane in self._planes:
            wide = plane.resize((size[0], self.height), resample, box=(left, 0, right, self.height), **options)
            wide = Image.fromarray(np.asarray(wide).clip(0, 1))
            planes.append(wide.resize(size, resample, box=(0, top, size[0], bottom), **options))
        return ChannelImage(planes, True)

    def crop(self, box: tuple[int, int, int, int]) -> "ChannelImage":
        """See ``PIL.Image.Image.crop``."""
        return ChannelImage([plane.crop(box) for plane in self._planes], self._unit)

    def transpose(self, method: Image.Transpose) -> "ChannelImage":
        """See ``PIL.Image.Image.transpose``."""
        return ChannelImage([plane.transpose(method) for plane in self._planes], self._unit)


AnyImage = Image.Image | ChannelImage
"""What a source reads: an image in mode RGB, or named channels."""


@runtime_checkable
class StoredFiles(FileSource, StoredDataset, Protocol):
    """A source of files."""


class Channel(NamedTuple):
    """A channel as a user names it: NAME, or NAME=LOW..HIGH."""

    name: str
    range: tuple[float, float] | None
    """The values that become 0 and 1, of gray or sRGB; None: see ``ChannelDataset``."""


class ChannelDataset:
    """A source of images of named channels.

    Values are those of the files, as float32; what is not finite becomes NaN. Only the channels gray, and red, green
    and blue, are scaled to [0, 1]: by their declared range, else by that of their type: 0 to 255 or 65,535 for integers
    of 8 or 16 bits, 0 to 1 for floats. Their values must lie in it, and NaN is black.

    Args:
        channels: the channels, in the order in which the files have them.
        source: the files.
        groups: for each image the files of its channels, by their indices in ``source``, and its key; None if each file
            is an image.
    """

    def __init__(
        self, channels: Sequence[Channel], source: StoredFiles, groups: Sequence[tuple[list[int], str]] | None = None
    ) -> None:
        self.channels = tuple(channel.name for channel in channels)
        self.source, self._groups = source, groups
        self._ranges = [channel.range for channel in channels]
        self._unit = self.channels in (GRAY, SRGB)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.source) if self._groups is None else len(self._groups)

    def key(self, index: int) -> str:
        """See ``ImageDataset.key``."""
        return self.source.key(index) if self._groups is None else self._groups[index][1]

    @property
    def declared(self) -> list[str]:
        """The channels as a user names them."""
        ranges = ("" if extent is None else f"={extent[0]:.9g}..{extent[1]:.9g}" for extent in self._ranges)
        return [f"{name}{extent}" for name, extent in zip(self.channels, ranges, strict=True)]

    @cached_property
    def _digest(self) -> str:
        names = [f"{name}{extent or ''}" for name, extent in zip(self.channels, self._ranges, strict=True)]
        return hashlib.sha256("\n".join([*names, self.source.digest()]).encode()).hexdigest()

    def digest(self) -> str:
        """Return the SHA-256, in hex, of names and ranges of the channels, and the digest of the files."""
        return self._digest

    def stamps(self) -> NDArray[np.int64]:
        """See ``StoredDataset.stamps``; sizes of the files of an image are added up."""
        stamps = self.source.stamps()
        if self._groups is None:
            return stamps
        of_files = stamps[np.array([files for files, _ in self._groups])]  # (N, C, 2)
        sizes = np.where((of_files[..., 0] < 0).any(1), -1, of_files[..., 0].sum(1))
        return np.column_stack([sizes, of_files[..., 1].max(1)])

    def read_bytes(self, index: int, start: int = 0, stop: int | None = None) -> bytes:
        """See ``StoredDataset.read_bytes``; the files of an image follow each other."""
        if self._groups is None:
            return self.source.read_bytes(index, start, stop)
        return b"".join(map(self.source.read_bytes, self._groups[index][0]))[start:stop]

    def stored_values(self, index: int) -> NDArray[Any]:
        """Return the values of image ``index`` as they are stored: (H, W, C), uint8, uint16 or float32.

        Raises:
            ImageError: see ``read``.
        """
        if self._groups is None:
            data = self.source.data(index)
            packed = read_packed(data, len(self.channels))
            return read_planes(data, self.source.key(index), self.channels) if packed is None else packed
        files, key = self._groups[index]
        planes = [
            read_planes(self.source.data(file), self.source.key(file), [name])
            for file, name in zip(files, self.channels, strict=True)
        ]
        for what, values in (("size", {plane.shape for plane in planes}), ("type", {plane.dtype for plane in planes})):
            if len(values) > 1:
                raise ImageError(key, f"the files of its channels differ in {what}: {', '.join(map(str, values))}")
        return np.concatenate(planes, -1)

    def read(self, index: int, shorter: int | None = None) -> Any:
        """Return image ``index``, a ``ChannelImage``; it is never reduced.

        Raises:
            ImageError: a file cannot be read, has other channels, or floats of gray or sRGB lie outside [0, 1].
        """
        stored = self.stored_values(index)
        values = stored.astype(np.float32)
        values[~np.isfinite(values)] = np.nan
        full = 1.0 if stored.dtype.kind == "f" else float(np.iinfo(stored.dtype).max)
        if not self._unit:
            return ChannelImage.of(values)
        for name, extent, plane in zip(self.channels, self._ranges, np.moveaxis(values, -1, 0), strict=True):
            low, high = extent or (0.0, full)
            if not np.isfinite(plane).any():
                raise ImageError(self.key(index), f"no value of {name} is a number")
            least, greatest = np.nanmin(plane, initial=high), np.nanmax(plane, initial=low)
            if not low <= least <= greatest <= high:
                raise ImageError(
                    self.key(index),
                    f"values of {name} reach from {least:g} to {greatest:g}, beyond {low:g} to {high:g}; declare their "
                    f"range, channels:{name}=LOW..HIGH:...",
                )
            plane -= np.float32(low)
            plane /= np.float32(high - low)
        return ChannelImage.of(np.nan_to_num(values, copy=False, nan=0.0), unit=True)


class LabeledChannels(ChannelDataset):
    """The same with labels: those of the files, or of the first file of each image."""

    @property
    def classes(self) -> list[str]:
        """See ``LabeledDataset.classes``."""
        assert isinstance(self.source, LabeledDataset)
        return self.source.classes

    @property
    def labels(self) -> Labels:
        """See ``LabeledDataset.labels``."""
        assert isinstance(self.source, LabeledDataset)
        labels = self.source.labels
        return labels if self._groups is None else labels[[files[0] for files, _ in self._groups]]


def parse_channels(text: str, spec: str) -> list[Channel]:
    """Return the channels of NAME,NAME=LOW..HIGH,...

    Args:
        text: the names.
        spec: the whole name of the source, for errors.

    Raises:
        UserError: a name or a range is wrong, a name occurs twice, or there are more than ``MOST``.
    """
    channels = []
    for part in text.split(","):
        name, equals, extent = part.partition("=")
        if not NAME.fullmatch(name):
            raise UserError(f"{spec}: {name or 'an empty text'} is no channel's name (letters, digits, ._-); {_HOW}")
        numbers = None
        if equals:
            try:
                low, high = map(float, extent.split(".."))
            except ValueError:
                low = high = 0
            if not -math.inf < low < high < math.inf:
                raise UserError(f"{spec}: {extent or 'empty'} is no range of {name}; write {name}=0..4095")
            numbers = (low, high)
        channels.append(Channel(name, numbers))
    names = [channel.name for channel in channels]
    if tuple(names) not in (GRAY, SRGB) and any(channel.range for channel in channels):
        raise UserError(
            f"{spec}: only gray, and red, green and blue, have a range here; set scale.low and scale.high instead"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{spec}: two channels are called {max(names, key=names.count)}; give each its own name")
    if len(names) > MOST:
        raise UserError(f"{spec}: {len(names)} channels; at most {MOST} are possible")
    return channels


def declared_channels(source: str) -> tuple[str, ...]:
    """Return the names in the name of a source, channels:NAMES:SOURCE; () for 8-bit sRGB."""
    kind, colon, rest = source.partition(":")
    if kind != "channels" or not colon:
        return ()
    return tuple(channel.name for channel in parse_channels(rest.partition(":")[0], source))


def open_channels(spec: str, labeled: bool, open_inner: Callable[[str], ImageDataset]) -> ChannelDataset:
    """Open ``channels:NAMES:SOURCE``.

    SOURCE is a folder, a list or tar shards, as everywhere; or FOLDER/PATTERN with {channel} in it, where each channel
    has its own file: ``plates/{id}_w{channel}.tif``.

    Args:
        spec: the name.
        labeled: whether labels are needed.
        open_inner: opens a source that is no folder.

    Raises:
        UserError: the names are wrong, the source cannot be opened or has no files, or a file of a channel is missing.
    """
    _, names, inner = (*spec.split(":", 2), "", "")[:3]
    if not inner:
        raise UserError(f"{spec}: {_HOW}")
    channels = parse_channels(names, spec)
    kind = LabeledChannels if labeled else ChannelDataset
    opener = ClassFolder if labeled else Folder
    if "{channel}" in inner:
        folder, slash, _ = inner[: inner.index("{")].rpartition("/")
        files = opener(folder or slash or ".", ARRAYS)
        return kind(channels, files, group_files(files, inner[len(folder + slash) :], channels, spec))
    source = open_inner(inner) if ":" in inner or names_shards(inner) else opener(inner, ARRAYS)
    if not isinstance(source, StoredFiles):
        raise UserError(f"{spec}: {inner} has no files of its own; give a folder, a list or tar shards")
    if isinstance(source, Shards):
        for shard_folder in dict.fromkeys(path.parent for path in source.paths):
            packed = (read_manifest(shard_folder) or {}).get("source", {}).get("channels")
            if packed and packed != (wanted := kind(channels, source).declared):
                raise UserError(
                    f"{spec}: {shard_folder} was packed as channels:{','.join(packed)}, not as {','.join(wanted)}; "
                    "name the channels as they were packed"
                )
    return kind(channels, source)


def group_files(files: Folder, pattern: str, channels: Sequence[Channel], spec: str) -> list[tuple[list[int], str]]:
    """Return for each image the files of its channels, by their indices, and its id; ordered by the first file.

    Args:
        files: all files.
        pattern: names of files, with {id} and {channel}.
        channels: the channels.
        spec: the name of the source, for errors.

    Raises:
        UserError: {id} is missing, no file fits, or an image lacks a channel.
    """
    parts = re.split(r"(\{id\}|\{channel\})", pattern)
    if parts.count("{id}") != 1 or parts.count("{channel}") != 1:
        raise UserError(f"{spec}: the pattern needs {{id}} and {{channel}}, each once: {{id}}_w{{channel}}.tif")
    names = [channel.name for channel in channels]
    groups = {"{id}": "(?P<id>.+)", "{channel}": f"(?P<channel>{'|'.join(map(re.escape, names))})"}
    rule = re.compile("".join(groups.get(part, re.escape(part)) for part in parts))
    images: dict[str, dict[str, int]] = {}
    for index in range(len(files)):
        if match := rule.fullmatch(files.key(index)):
            images.setdefault(match["id"], {})[match["channel"]] = index
    if not images:
        raise UserError(f"{spec}: none of {len(files):,} files has such a name, with a channel {' or '.join(names)}")
    lacking = [key for key, of_image in images.items() if len(of_image) < len(names)]
    if lacking:
        missing = ", ".join(name for name in names if name not in images[lacking[0]])
        raise UserError(
            f"{spec}: {len(lacking):,} of {len(images):,} images lack a channel; the first: {lacking[0]} has no "
            f"{missing}; add the files, or leave the channel out"
        )
    return [([of_image[name] for name in names], key) for key, of_image in images.items()]


def channels_of(source: object) -> tuple[str, ...]:
    """Return the channels of a source, or of a `Subset` of one; () for 8-bit sRGB."""
    while not isinstance(source, ChannelDataset):
        if not hasattr(source, "source"):
            return ()
        source = source.source
    return source.channels
