"""How fast this machine multiplies matrices: the ceiling of whatever consists of such products.

The product is of two square matrices of normal numbers, of the side that is fastest here; its 2 n^3 operations divided
by the time it takes. fp32 is torch's own: on a GPU without the shortcut of TF32, which convolutions take there.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import torch

from benchmarks.paired import Job, Row, Spread, paired, seconds, spread
from pretext.engine.device import pick_precision

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
_SIDES = {"cuda": (4096, 8192, 16384), "cpu": (1024, 2048)}


class Product(NamedTuple):
    """One to be timed."""

    side: int
    times: int
    """How often it is done in a round, of a fifth of a second at least."""
    job: Job

    @property
    def operations(self) -> int:
        """Additions and multiplications of one product."""
        return 2 * self.side**3

    def rate(self, device: torch.device) -> float:
        """Operations per second, measured now."""
        return self.operations / seconds(self.job, device, self.times)


def product(side: int, precision: str, device: torch.device) -> Product:
    """Of that side, warmed up."""
    a, b, out = (torch.randn(side, side, device=device).to(DTYPES[precision]) for _ in range(3))

    def job() -> None:
        torch.mm(a, b, out=out)

    job()
    return Product(side, max(1, round(0.2 / max(seconds(job, device), 1e-6))), job)


@cache
def fastest(precision: str, device: torch.device) -> Product:
    """Of those tried, chosen once per process."""
    tried = [product(side, precision, device) for side in _SIDES.get(device.type, _SIDES["cpu"])]
    return max(tried, key=lambda one: one.rate(device))


def rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """The rate in fp32; and in bf16, where the device computes in it natively, against that."""
    single = fastest("fp32", device)
    if pick_precision("auto", device) != "bf16":
        rates = [single.rate(device) / 1e12 for _ in range(rounds)]
        yield Row("matrix product, fp32", _square(single), "", "TFLOP/s", spread(rates), None, None)
        return
    half = fastest("bf16", device)
    taken = paired(half.job, single.job, device, rounds)
    ours, plain = (
        [one.operations / each / 1e12 for each in times]
        for one, times in zip((half, single), taken, strict=True)
    )  # fmt: skip
    yield Row("matrix product, bf16", _square(half), "fp32", "TFLOP/s", *over(ours, plain))


def over(ours: list[float], plain: list[float]) -> tuple[Spread, Spread, Spread]:
    """Two rates, round by round, and how many times the one is the other."""
    ratios = [one / other for one, other in zip(ours, plain, strict=True)]
    return spread(ours), spread(plain), spread(ratios)


def _square(one: Product) -> str:
    return f"{one.side:,} x {one.side:,}"
