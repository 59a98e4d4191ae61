"""How many planted near duplicates the embeddings of networks find: recall by kind, at a stated precision.

    python -m benchmarks.planted_duplicates runs/a runs/b --images imagenette-96/val --csv FILE

Of some images copies are made: compressed again (JPEG of quality 40), mirrored, cropped to the middle 90 %. A pair of a
copy and an image of the set counts as found if its cosine, from the mean of the set, reaches a threshold. Each network
has the threshold at which 99 % of the pairs found are a copy and its own original, over all kinds together.
"""

import argparse
import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pretext.data import open_dataset
from pretext.engine.device import choose_compute
from pretint import EmbedSettings, embed
from transfer.features import View, calibrate_batch_norm
from transfer.networks import open_network

PRECISION = 0.99


def compressed(image: Image.Image) -> Image.Image:
    """Return it as JPEG of quality 40."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


def cropped(image: Image.Image) -> Image.Image:
    """Return the middle 90 % of both sides, at the old size."""
    width, height = image.size
    box = (0.05 * width, 0.05 * height, 0.95 * width, 0.95 * height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


KINDS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed": compressed, "mirrored": ImageOps.mirror, "cropped": cropped
}  # fmt: skip


def threshold_at(cosines: NDArray[np.float32], own: NDArray[np.bool_], precision: float) -> float:
    """Return the least threshold at which so many of the pairs at or above it are right; infinity if there is none.

    Args:
        cosines: of all pairs, (P,).
        own: which pairs are right, (P,).
        precision: the share.
    """
    order = np.argsort(-cosines, kind="stable")
    right = np.cumsum(own[order]) / np.arange(1, len(order) + 1)
    last = np.flatnonzero(np.append(np.diff(cosines[order]) < 0, True) & (right >= precision))  # not within equal ones
    return float(cosines[order][last[-1]]) if len(last) else float("inf")


def recalls(spec: str, images: str, count: int) -> dict[str, float]:
    """Return recall by kind, and the threshold, of a network."""
    source, network = open_dataset(images), open_network(spec)
    settings = EmbedSettings(precision="fp32", device="cpu", workers=0)
    chosen = np.sort(np.random.default_rng(0).permutation(len(source))[:count])
    calibrate_batch_norm(network, source, View(network.size_at(1.0)), choose_compute("cpu", "fp32", 0))
    originals = embed(network, images, settings)
    mean = originals.mean(0)
    pictures = [source.read(int(index)) for index in chosen]

    def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        centered = vectors - mean
        length: NDArray[np.float32] = centered / np.linalg.norm(centered, axis=1, keepdims=True)
        return length

    reference = unit(originals)
    cosines = {
        kind: unit(embed(network, list(map(change, pictures)), settings)) @ reference.T
        for kind, change in KINDS.items()
    }
    own = np.zeros((len(chosen), len(originals)), bool)
    own[np.arange(len(chosen)), chosen] = True
    every = np.concatenate([of_kind.ravel() for of_kind in cosines.values()])
    threshold = threshold_at(every, np.tile(own.ravel(), len(KINDS)), PRECISION)
    return {kind: float((of_kind[own] >= threshold).mean()) for kind, of_kind in cosines.items()} | {
        "threshold": threshold
    }


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description="Recall of planted near duplicates at a precision of 99 %.")
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--images", required=True)
    parser.add_argument("--count", type=int, default=500, help="images that copies are made of")
    parser.add_argument("--csv", type=Path, required=True)
    given = parser.parse_args()
    with given.csv.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["network", "n", *KINDS, "threshold"])
        for spec in given.networks:
            found = recalls(spec, given.images, given.count)
            table.writerow([spec, given.count, *(f"{value:.3f}" for value in found.values())])
            file.flush()


if __name__ == "__main__":
    main()
