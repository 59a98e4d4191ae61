"""Speed, as ratios within one process: ``make bench``. Prints a table; asserts nothing.

Every ratio compares our path with the plain one on the same data, run in turn; the median of the
paired ratios is shown.
"""

import statistics
import time
from collections.abc import Callable

import skimage.color
import torch
from rich.console import Console
from rich.table import Table

from pretext.backbones import Tiny
from pretext.color import rgb_to_ab, rgb_to_lab, rgb_to_lightness
from pretext.colorizer import Colorizer
from pretext.gamut import Gamut
from pretext.objectives import Classification, soft_cross_entropy
from pretext.pictures import Bundled
from pretext.pictures.batches import CropSettings, Samples

ROUNDS = 7


def ratio(plain: Callable[[], object], ours: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of ours, and how many times longer the plain way takes."""
    plain(), ours()
    times = []
    for _ in range(ROUNDS):
        pair = []
        for function in (plain, ours):
            began = time.perf_counter()
            function()
            pair.append(time.perf_counter() - began)
        times.append(pair)
    return 1e3 * statistics.median(b for _, b in times), statistics.median(a / b for a, b in times)


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    rgb = torch.randint(0, 256, (64, 3, 64, 64), dtype=torch.uint8)
    channels_last = rgb.permute(0, 2, 3, 1).numpy()
    gamut = Gamut(neighbours=10)
    ab = rgb_to_ab(rgb[:, :, ::4, ::4])
    target = gamut.encode(ab)
    logits = torch.randn(64, 313, 16, 16, requires_grad=True)
    points = ab.permute(0, 2, 3, 1).reshape(-1, 2)

    def brute_force() -> torch.Tensor:
        squared, bins = torch.cdist(points, gamut.centres).square().topk(10, largest=False)
        return torch.zeros(len(points), 313).scatter_(1, bins, torch.softmax(-squared / 50, 1))

    def dense() -> None:
        full = torch.zeros_like(logits).scatter_(1, target.bins, target.weights)
        torch.nn.functional.cross_entropy(logits, full).backward()

    colorizer = Colorizer(Tiny(), Classification(gamut), 8)
    lightness = rgb_to_lightness(rgb)

    def bare() -> None:
        colorizer(lightness).logsumexp(1).mean().backward()

    samples = Samples([Bundled("train")], CropSettings(size=32), seed=0, cache_bytes=2**28)
    for t in range(len(samples.source)):
        samples[t]

    rows = [
        ("Lab of 64 pictures of 64 x 64", "scikit-image", *ratio(
            lambda: skimage.color.rgb2lab(channels_last), lambda: rgb_to_lab(rgb))),
        ("L of the same", "all of Lab", *ratio(lambda: rgb_to_lab(rgb), lambda: rgb_to_lightness(rgb))),
        ("soft targets of 64 x 16 x 16 pixels", "all 313 distances", *ratio(brute_force, lambda: gamut.encode(ab))),
        ("loss and its gradient", "dense targets", *ratio(
            dense, lambda: soft_cross_entropy(logits, target).mean().backward())),
        ("the whole training step", "the network alone", *ratio(bare, lambda: colorizer.loss(rgb).backward())),
    ]  # fmt: skip
    table = Table(title=f"{torch.get_num_threads()} threads, torch {torch.__version__}", title_justify="left")
    for name, justify in (("what", "left"), ("against", "left"), ("ms", "right"), ("times as fast", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for what, against, milliseconds, times in rows:
        table.add_row(what, against, f"{milliseconds:.1f}", f"{times:.2f}")
    began = time.perf_counter()
    for t in range(2000):
        samples[t]
    rate = 2000 / (time.perf_counter() - began)
    Console(width=100).print(table, f"crops of cached 32-pixel tiles: {rate:,.0f} pictures/s on one core")


if __name__ == "__main__":
    main()
