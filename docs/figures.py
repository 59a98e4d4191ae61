"""The figures of docs/how.md, computed by the code that they explain: python docs/figures.py [FOLDER].

The site draws them anew when it is built; those beside this file are for who reads the pages elsewhere.
"""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import skimage.data
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from pretext import Bundled, Gamut, estimate_prior, lab_to_rgb, rebalancing_weights
from pretext.color import rgb_to_ab, rgb_to_lightness
from pretext.gamut import TEMPERATURE
from pretext.methods.colorization import join, resample

INK = "#808080"  # reads on white and on black
STYLE = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}
LINES = ("#d1495b", "#edae49", "#2e9599", "#6f7fd8", INK)
STRIDE = 8


def gamut() -> bytes:
    """The bins at three lightnesses: what of them sRGB can show."""
    centers = Gamut().centers
    figure, panels = _figure(3, 7.6, 2.9)
    for panel, lightness in zip(panels, (30, 55, 80), strict=True):
        lab = torch.cat((torch.full((len(centers), 1), float(lightness)), centers), 1).T[None, :, :, None]
        panel.scatter(centers[:, 1], centers[:, 0], c=lab_to_rgb(lab)[0, :, :, 0].T.clamp(0, 1), marker="s", s=18)
        _ab_axes(panel)
        panel.set_title(f"L = {lightness}")
    panels[0].set_ylabel("a")
    return _png(figure)


def neighbors() -> bytes:
    """One color, and its soft target with 5 and with 10 neighbors."""
    color = torch.tensor([33.0, 27.0])
    figure, panels = _figure(2, 6.4, 3.2)
    for panel, count in zip(panels, (5, 10), strict=True):
        coder = Gamut(count)
        target = coder.encode(color.view(1, 2, 1, 1))
        bins, weights = coder.centers[target.bins.flatten()], target.weights.flatten()
        panel.scatter(coder.centers[:, 1], coder.centers[:, 0], s=6, color=INK, alpha=0.5, linewidths=0)
        panel.scatter(bins[:, 1], bins[:, 0], s=1500 * weights, color=LINES[2], alpha=0.8, linewidths=0)
        for (a, b), weight in zip(bins.tolist(), weights.tolist(), strict=True):
            above = 2 + (1500 * weight / np.pi) ** 0.5
            if weight >= 0.005:
                panel.annotate(f"{weight:.2f}", (b, a), (0, above), textcoords="offset points", ha="center", fontsize=8)
        panel.plot(color[1], color[0], "x", color=LINES[0])
        panel.set(xlim=(2, 52), ylim=(8, 58), xlabel="b", title=f"K = {count}", aspect="equal")
    panels[0].set_ylabel("a")
    return _png(figure)


def prior() -> bytes:
    """How often the bundled photographs have each bin."""
    coder, occurs = Gamut(), bundled_prior()
    figure, panels = _figure(1, 4.2, 3.4)
    seen = occurs > 1e-6
    panels[0].scatter(coder.centers[~seen, 1], coder.centers[~seen, 0], s=5, color=INK, alpha=0.5, linewidths=0)
    drawn = panels[0].scatter(
        coder.centers[seen, 1], coder.centers[seen, 0], c=occurs[seen].log10(), marker="s", s=26, cmap="viridis"
    )
    _ab_axes(panels[0])
    panels[0].set_ylabel("a")
    bar = figure.colorbar(drawn, ticks=range(-6, 0))
    bar.ax.set_yticklabels([f"$10^{{{power}}}$" for power in range(-6, 0)])
    bar.set_label("share of all pixels")
    return _png(figure)


def weights() -> bytes:
    """What lambda makes of that prior: the weight of every bin that occurs, common bins first."""
    occurs = bundled_prior().sort(descending=True).values
    occurs = occurs[occurs > 1e-6]
    figure, panels = _figure(1, 6.4, 3.1)
    for line, uniform in zip(LINES, (0.0, 0.1, 0.5, 0.9, 1.0), strict=True):
        values = rebalancing_weights(occurs / occurs.sum(), uniform)
        panels[0].plot(np.arange(1, len(values) + 1), values, color=line, label=f"$\\lambda$ = {uniform:g}", lw=1.8)
    panels[0].set(yscale="log", xscale="log", xlabel="bins, the most frequent first", ylabel="weight in the loss")
    panels[0].legend(loc="upper left", fontsize=8, labelcolor=INK)
    return _png(figure)


def annealing() -> bytes:
    """What T makes of one distribution with two modes: the weights of bins, and where the annealed mean lies."""
    coder = Gamut()
    modes = torch.tensor([[[[60.0]], [[50.0]]], [[[-20.0]], [[-40.0]]]])
    target = coder.encode(modes)
    shares = torch.tensor([0.65, 0.35]).view(2, 1, 1, 1)
    chance = torch.zeros(len(coder)).index_add_(0, target.bins.flatten(), (target.weights * shares).flatten())
    logits = (0.9 * chance + 0.1 / len(coder)).log().view(1, -1, 1, 1)
    figure, panels = _figure(3, 7.6, 2.9)
    for panel, temperature in zip(panels, (1.0, TEMPERATURE, 0.1), strict=True):
        sharp = torch.softmax(logits.flatten() / temperature, 0)
        a, b = coder.annealed_mean(logits, temperature).flatten().tolist()
        panel.scatter(coder.centers[:, 1], coder.centers[:, 0], s=4, color=INK, alpha=0.4, linewidths=0)
        panel.scatter(coder.centers[:, 1], coder.centers[:, 0], s=450 * sharp, color=LINES[2], linewidths=0, alpha=0.8)
        panel.plot(b, a, "X", color=LINES[0], markersize=9)
        _ab_axes(panel)
        panel.set_title(f"T = {temperature:g}")
    panels[0].set_ylabel("a")
    return _png(figure)


def temperature() -> bytes:
    """A photograph, and its colors decoded from what each place's surroundings have, at falling T."""
    rgb = torch.from_numpy(np.asarray(skimage.data.astronaut()[:480, 20:500]).copy()).permute(2, 0, 1)[None] / 255
    coder, side = Gamut(), rgb.shape[-1]
    target = coder.encode(rgb_to_ab(rgb[..., ::STRIDE, ::STRIDE]))
    chance = torch.zeros(1, len(coder), *target.bins.shape[-2:]).scatter_add_(1, target.bins, target.weights)
    around = F.avg_pool2d(F.pad(chance, (4, 4, 4, 4), "replicate"), 9, 1)
    rebalanced = around * rebalancing_weights(bundled_prior()).float().view(1, -1, 1, 1)
    logits = (rebalanced + 1e-4 / len(coder)).log()
    shown = [rgb]
    for warmth in (1.0, TEMPERATURE, 0.1):
        ab = resample(coder.annealed_mean(logits, warmth), STRIDE, (side, side))
        shown.append(join(rgb_to_lightness(rgb), ab))
    strip = torch.cat([F.interpolate(one, scale_factor=0.5, mode="area") for one in shown], 3)
    image = Image.fromarray((strip[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    made = io.BytesIO()
    image.save(made, "JPEG", quality=88)
    return made.getvalue()


FIGURES: dict[str, Callable[[], bytes]] = {
    "gamut.png": gamut,
    "neighbors.png": neighbors,
    "prior.png": prior,
    "weights.png": weights,
    "annealing.png": annealing,
    "temperature.jpg": temperature,
}
"""File -> what draws it."""


def drawn(name: str) -> bytes:
    """The content of one of ``FIGURES``."""
    with matplotlib.rc_context({**STYLE, "backend": "Agg"}):
        return FIGURES[name]()


def bundled_prior() -> Tensor:
    """The prior of the bundled photographs, every fourth pixel each way: (Q,)."""
    source = Bundled("train")
    tiles = (torch.from_numpy(np.asarray(source.read(index)).copy()) for index in range(len(source)))
    return estimate_prior((rgb_to_ab(tile.permute(2, 0, 1)[None, :, ::4, ::4] / 255) for tile in tiles), Gamut())


def _figure(columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _ab_axes(panel: Axes) -> None:
    panel.set(
        xlim=(-118, 118), ylim=(-118, 118), xlabel="b", aspect="equal", xticks=(-100, 0, 100), yticks=(-100, 0, 100)
    )


def _png(figure: Figure) -> bytes:
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=140, transparent=True)
    small, image = io.BytesIO(), Image.open(made)
    image.quantize(192, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("figures")
    folder.mkdir(exist_ok=True)
    for name in FIGURES:
        (folder / name).write_bytes(drawn(name))
