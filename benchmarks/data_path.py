"""From JPEG bytes to the network's input and its soft targets, per core, against the publication's data path, plainly.

Both take crops of 176 pixels from images of 256, and targets at every fourth pixel. The plain way, as the publication
describes it and its released code does it: squeeze to a square, crop, scikit-image's Lab of the whole crop, the ten
nearest bins of every target pixel by a ball tree, and a dense vector of 313 numbers for each. The ceiling is Pillow
decoding the same files and nothing else.
"""

from collections.abc import Iterator
from io import BytesIO

import numpy as np
import torch
from PIL import Image

from benchmarks.images import jpegs
from benchmarks.paired import Row, paired, times_as_fast
from pretext.color import rgb_to_ab, rgb_to_lightness
from pretext.data.batches import CropSettings, random_crop
from pretext.data.decode import decode
from pretext.gamut import Gamut, bin_centers

_SIZE, _STRIDE, _BATCH = 176, 4, 40
_SHARE = (_SIZE / 256) ** 2
_CROP = CropSettings(size=_SIZE, area=(_SHARE, _SHARE), ratio=(1, 1), squash=True)


def rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """With decoding, and without."""
    from skimage.color import rgb2lab
    from sklearn.neighbors import NearestNeighbors

    files = list(jpegs(_BATCH, 256))
    uniforms = np.random.default_rng(0).random((_BATCH, 5))
    gamut = Gamut(10, 5.0).to(device)
    tree = NearestNeighbors(n_neighbors=10, algorithm="ball_tree").fit(bin_centers())

    def our_crops() -> np.ndarray:
        decoded = (decode(data, "", 256) for data in files)
        return np.stack([random_crop(image, _CROP, drawn) for image, drawn in zip(decoded, uniforms, strict=True)])

    def our_colors(crops: np.ndarray) -> object:
        pieces = torch.from_numpy(crops).permute(0, 3, 1, 2).to(device).split(_BATCH if device.type == "cuda" else 8)
        return [
            (rgb_to_lightness(rgb), gamut.encode(rgb_to_ab(rgb[..., ::_STRIDE, ::_STRIDE]))) for rgb in pieces
        ]  # 8 at once: what comes between stays in the processor's cache

    def decoding() -> None:
        for data in files:
            Image.open(BytesIO(data)).load()

    def plain_crops() -> Iterator[np.ndarray]:
        for data, (*_, x, y, mirror) in zip(files, uniforms, strict=True):
            square = Image.open(BytesIO(data)).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
            left, top = int(x * (256 - _SIZE)), int(y * (256 - _SIZE))
            crop = np.asarray(square.crop((left, top, left + _SIZE, top + _SIZE)))
            yield crop[:, ::-1] if mirror < 0.5 else crop

    def plain_colors(crop: np.ndarray) -> object:
        lab = rgb2lab(crop)
        points = lab[::_STRIDE, ::_STRIDE, 1:].reshape(-1, 2)
        distances, bins = tree.kneighbors(points)
        weights = np.exp(-(distances**2) / (2 * 5.0**2))
        weights /= weights.sum(1, keepdims=True)
        dense = np.zeros((len(points), len(gamut)), np.float32)
        dense[np.arange(len(points))[:, None], bins] = weights
        return lab[..., 0].astype(np.float32), dense.reshape(_SIZE // _STRIDE, _SIZE // _STRIDE, -1)

    ready = our_crops()
    threads, on_cpu = torch.get_num_threads(), device.type == "cpu"
    torch.set_num_threads(1)
    try:
        for what, ours, plain, target in (
            (
                "data path, from JPEG",
                lambda: our_colors(our_crops()),
                lambda: [plain_colors(c) for c in plain_crops()],
                8.0,
            ),
            ("data path, decoded crops", lambda: our_colors(ready), lambda: [plain_colors(c) for c in ready], None),
        ):
            taken = paired(ours, plain, device, rounds, cpu=on_cpu)
            where = "one core" if on_cpu else "one core and the GPU"
            setting = f"{_SIZE} px of 256, stride {_STRIDE}, 10 bins, {where}"
            yield times_as_fast(what, setting, "the publication's, plainly", *taken, _BATCH, target)
        if on_cpu:
            taken = paired(lambda: our_colors(our_crops()), decoding, device, rounds, cpu=True)
            yield times_as_fast("data path, from JPEG", setting, "decoding the JPEGs alone", *taken, _BATCH)
            taken = paired(our_crops, decoding, device, rounds, cpu=True)
            yield times_as_fast("decoding and cropping", setting, "decoding the JPEGs alone", *taken, _BATCH)
    finally:
        torch.set_num_threads(threads)
