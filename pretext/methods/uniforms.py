"""Random numbers that methods draw on the device: a pure function of the seed and the number of the sample.

Those of crops, which workers draw, are in ``pretext.data.order``.
"""

import torch
from torch import Tensor

from pretext.engine.compiler import not_compiled

_MASK = 2**64 - 1


@not_compiled  # torch.compile must not change int64 products that wrap around
def uniforms(seed: int, numbers: Tensor, count: int) -> Tensor:
    """Return ``count`` floats in [0, 1) for each sample, (B, count), float64, on the device of ``numbers``.

    On the CPU if the device is MPS, which has no float64.

    Number i of sample t is made of the upper 53 bits of ``order.mix(order.mix(seed, t), i)``.
    """
    numbers = numbers.cpu() if numbers.device.type == "mps" else numbers
    key = _mixed(_mixed(torch.full_like(numbers, _signed(seed))) ^ numbers)
    raw = _mixed(_mixed(key)[:, None] ^ torch.arange(count, device=numbers.device))
    return _shifted(raw, 11).double() * 2.0**-53


def _signed(value: int) -> int:
    """Return the same 64 bits as a signed number, for torch's int64."""
    return (value & _MASK ^ 1 << 63) - (1 << 63)


def _shifted(values: Tensor, by: int) -> Tensor:
    """Shift to the right, as for unsigned numbers."""
    return values >> by & (1 << 64 - by) - 1


def _mixed(values: Tensor) -> Tensor:
    """Return the finalizer of splitmix64, as in ``pretext.data.order``; int64 products wrap around."""
    values = values + _signed(0x9E3779B97F4A7C15)
    values = (values ^ _shifted(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    values = (values ^ _shifted(values, 27)) * _signed(0x94D049BB133111EB)
    return values ^ _shifted(values, 31)
