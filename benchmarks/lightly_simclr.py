"""SimCLR beside the package lightly: the same losses on the same tensors, and whole steps in turn.

    pip install lightly     # in an environment of its own, beside Pretint
    python -m benchmarks.lightly_simclr --data imagenette-96/train [--rounds 15] [--csv FILE]

Both train one backbone (that of laptop_wide, sRGB), from the same JPEG files, with the same batch, crops of 64 pixels,
jitter, grayscale and blur at the same probabilities and strengths, projector and temperature, on one process without
workers: lightly augments PIL images one by one, as its SimCLRTransform does. A step is all of it: reading, views,
forward, backward, Adam. The ratio is lightly's time divided by ours, round by round.
"""

import argparse
import csv
import os
import statistics
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

from benchmarks.__main__ import machine
from benchmarks.equal_time import stepper
from benchmarks.paired import in_turn, spread
from pretext.backbones import build_backbone
from pretext.methods.contrastive import nt_xent, vicreg_terms
from pretext.recipe import PretrainSettings
from pretext.settings import settings_from

WIDTHS = [32, 64, 128, 256, 512]
TEMPERATURE, HIDDEN, DIMS = 0.2, 512, 128


def ours(data: Path, batch: int) -> Callable[[], object]:
    """Return a function that does one step of Pretint's."""
    values = {
        "data": {"source": str(data), "holdout": 0}, "crop": {"size": 64, "area": [0.2, 1.0]},
        "backbone": {"name": "tiny", "arguments": {"widths": WIDTHS}, "inputs": "rgb"},
        "method": {"name": "simclr", "arguments": {"temperature": TEMPERATURE, "hidden": HIDDEN, "dims": DIMS}},
        "training": {"batch_size": batch, "precision": "fp32", "lr": 2e-3}, "machine": {"device": "cpu", "cache": 0},
    }  # fmt: skip
    return stepper(settings_from(PretrainSettings, values, "benchmark"))


def theirs(data: Path, batch: int) -> Callable[[], object]:
    """Return a function that does one step with lightly's transform, head and loss."""
    from lightly.loss import NTXentLoss  # type: ignore[import-not-found]
    from lightly.models.modules.heads import SimCLRProjectionHead  # type: ignore[import-not-found]
    from lightly.transforms import SimCLRTransform  # type: ignore[import-not-found]

    transform = SimCLRTransform(
        input_size=64, min_scale=0.2, cj_prob=0.8, cj_strength=1.0, cj_bright=0.4, cj_contrast=0.4, cj_sat=0.4,
        cj_hue=0.1, random_gray_scale=0.2, gaussian_blur=0.5, sigmas=(0.1, 2.0), hf_prob=0.5, normalize=None,
    )  # fmt: skip
    loader = DataLoader(ImageFolder(str(data), transform), batch, shuffle=True, drop_last=True)

    def endless() -> Iterator[Any]:
        for _ in count():
            yield from loader

    source = endless()
    backbone = build_backbone("tiny", inputs="rgb", widths=WIDTHS).to(memory_format=torch.channels_last).train()
    head: nn.Module = SimCLRProjectionHead(WIDTHS[-1], HIDDEN, DIMS, batch_norm=True).train()
    criterion = NTXentLoss(temperature=TEMPERATURE)
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], 2e-3, (0.9, 0.99), fused=True)

    def project(view: Tensor) -> Tensor:
        projected: Tensor = head(backbone(view.contiguous(memory_format=torch.channels_last))["conv5"].mean((2, 3)))
        return projected

    def step() -> None:
        (first, second), _ = next(source)
        loss = criterion(project(first), project(second))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def same_losses() -> None:
    """Compare both losses on the same projections, and print the largest relative differences."""
    from lightly.loss import NTXentLoss, VICRegLoss

    worst: dict[str, float] = {"NT-Xent": 0.0, "VICReg": 0.0}
    for seed in range(20):
        first, second = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(seed))
        second = first + 0.3 * second
        terms = vicreg_terms(first, second)
        pairs = {
            "NT-Xent": (nt_xent(first, second, TEMPERATURE), NTXentLoss(TEMPERATURE)(first, second)),
            "VICReg": (25 * terms["invariance"] + 25 * terms["variance"] + terms["covariance"],
                       VICRegLoss()(first, second)),
        }  # fmt: skip
        for name, (mine, other) in pairs.items():
            worst[name] = max(worst[name], float((mine - other).abs() / other))
    for name, difference in worst.items():
        print(f"{name}: largest relative difference {difference:.1e} in 20 draws")
        assert difference < 1e-5


def main() -> None:
    """Compare the losses, then time steps in turn."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lightly_simclr", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with one sub-folder per class")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--csv", type=Path)
    given = parser.parse_args()
    same_losses()
    steps = {"Pretint": ours(given.data, given.batch), "lightly": theirs(given.data, given.batch)}
    taken = in_turn(steps, given.rounds)
    ratio = spread([slow / quick for quick, slow in zip(*taken.values(), strict=True)])
    for name, seconds in taken.items():
        print(f"{name}: {1e3 * statistics.median(seconds):.0f} ms a step of {given.batch} images")
    print(f"ours takes {1 / ratio.median:.2f} of lightly's time ({1 / ratio.high:.2f} to {1 / ratio.low:.2f})")
    if given.csv:
        here = machine(torch.device("cpu")), len(os.sched_getaffinity(0)), torch.__version__
        with given.csv.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("round", *(f"{name}_seconds" for name in taken), "machine", "cores", "torch"))
            for number, pair in enumerate(zip(*taken.values(), strict=True)):
                writer.writerow((number, *pair, *here))


if __name__ == "__main__":
    main()
