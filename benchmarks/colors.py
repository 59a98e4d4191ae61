"""Color science against its plain definitions."""

from collections.abc import Iterator

import torch

from benchmarks.images import crops
from benchmarks.paired import Row, paired, times_as_fast
from pretext.color import rgb_to_ab, rgb_to_lab, rgb_to_lightness
from pretext.gamut import Gamut


def rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """Lab, L alone, and soft targets."""
    from skimage.color import rgb2lab

    images = crops(64, 64)
    rgb = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
    gamut = Gamut(10).to(device)
    ab = rgb_to_ab(rgb[..., ::4, ::4])
    points = ab.permute(0, 2, 3, 1).reshape(-1, 2)

    def brute_force() -> torch.Tensor:
        squared, bins = torch.cdist(points, gamut.centers).square().topk(10, largest=False)
        dense = torch.zeros(len(points), len(gamut), device=device)
        return dense.scatter_(1, bins, torch.softmax(-squared / 50, 1))

    for what, setting, against, ours, plain in (
        ("Lab", "64 images, 64 px", "scikit-image", lambda: rgb_to_lab(rgb), lambda: rgb2lab(images)),
        ("L", "64 images, 64 px", "all of Lab", lambda: rgb_to_lightness(rgb), lambda: rgb_to_lab(rgb)),
        ("soft targets", "64 x 16 x 16 pixels", "all 313 distances", lambda: gamut.encode(ab), brute_force),
    ):
        yield times_as_fast(what, setting, against, *paired(ours, plain, device, rounds))
