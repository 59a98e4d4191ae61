"""Packing and reading patches of four bands of 16 bits, beside the decompressor alone.

    python -m benchmarks.channel_patches --data ../shared/data/multichannel/sentinel2-4band [--count 10000]

Patches are random shifts and turns of the real ones, with noise in the lowest bits. Reading is all that
``ChannelDataset.read`` does: the shard, its checksum, TIFF, inflating, floats. The decompressor inflates the same
strips in memory. Prints patches a second, and the ratio of reading to the decompressor.
"""

import argparse
import tempfile
import time
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from benchmarks.paired import in_turn, spread
from pretext.data import open_dataset
from pretext.data.channels import ChannelDataset
from pretext.data.pack import PackSettings, pack

_AT_ONCE = 500


def write_patches(source: Path, folder: Path, count: int) -> None:
    """Write patches as NPY, uint16 (4, 64, 64)."""
    random = np.random.default_rng(0)
    originals: list[NDArray[np.float32]] = [np.load(file) for file in sorted(source.glob("*.npy"))]
    for at in range(count):
        image = np.rot90(originals[at % len(originals)], int(random.integers(4)), (1, 2))
        image = np.roll(image, random.integers(64, size=2), (1, 2))
        np.save(folder / f"{at:05}.npy", (image + random.integers(0, 4, image.shape)).astype(np.uint16))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.channel_patches", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder of NPY files, (4, 64, 64)")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, packed = Path(scratch) / "patches", Path(scratch) / "packed"
        folder.mkdir()
        write_patches(given.data, folder, given.count)
        names = "channels:B1,B2,B3,B4"
        began = time.perf_counter()
        pack(f"{names}:{folder}", packed, PackSettings(workers=0))
        print(f"packing: {given.count / (time.perf_counter() - began):,.0f} patches a second, one process")
        source = open_dataset(f"{names}:{packed}")
        assert isinstance(source, ChannelDataset) and len(source) == given.count
        strips = []
        for index in range(_AT_ONCE):
            data = source.source.data(index)
            with tifffile.TiffFile(BytesIO(data)) as file:
                page = file.pages.first
                strips.append([
                    data[at : at + size] for at, size in zip(page.dataoffsets, page.databytecounts, strict=True)
                ])  # fmt: skip
        turn = iter(range(10**9))

        def read() -> None:
            first = next(turn) * _AT_ONCE
            for index in range(first, first + _AT_ONCE):
                source.read(index % given.count)

        def inflate() -> None:
            for of_patch in strips:
                for strip in of_patch:
                    zlib.decompress(strip)

        taken = in_turn({"reading": read, "decompressor": inflate}, given.rounds)
    for name, seconds in taken.items():
        print(f"{name}: {_AT_ONCE / float(np.median(seconds)):,.0f} patches a second")
    ratio = spread([inflating / reading for reading, inflating in zip(*taken.values(), strict=True)])
    print(
        f"reading is {ratio.median:.2f} times as fast as the decompressor alone ({ratio.low:.2f} to {ratio.high:.2f})"
    )


if __name__ == "__main__":
    main()
