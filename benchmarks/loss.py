"""Our loss and its gradient against the dense form, at the size of the publication's network: time and memory.

The ceiling reads the logits and writes a tensor as large as their gradient, each once.
The dense form makes a (B, Q, h, w) target of the same soft target and gives it to torch's cross-entropy. Memory is the
peak beyond what is there before: on a GPU that of torch's allocator; on a CPU the growth of the process's
resident peak, which Linux lets us reset (tensors of this size are mapped and unmapped one by one: nothing of
them stays behind).
"""

from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.images import crops
from benchmarks.paired import Row, Spread, paired, spread, times_as_fast
from pretext.color import rgb_to_ab
from pretext.engine.memory import device_peak_memory, peak_memory, reset_peak_memory
from pretext.gamut import Gamut
from pretext.methods.objectives import soft_cross_entropy

_SHAPE = (40, 313, 44, 44)


def rows(device: torch.device, rounds: int) -> Iterator[Row]:
    """Time, and memory."""
    gamut = Gamut(10).to(device)
    rgb = torch.from_numpy(crops(_SHAPE[0], 176)).permute(0, 3, 1, 2).to(device)
    target = gamut.encode(rgb_to_ab(rgb[..., ::4, ::4]))
    logits = torch.randn(_SHAPE, device=device).to(memory_format=torch.channels_last).requires_grad_()

    def ours() -> None:
        logits.grad = None
        soft_cross_entropy(logits, target).mean().backward()

    def dense() -> None:
        logits.grad = None
        full = torch.zeros_like(logits).scatter_(1, target.bins, target.weights)
        torch.nn.functional.cross_entropy(logits, full).backward()

    setting = "x".join(map(str, _SHAPE)) + " logits, fp32"
    taken = paired(ours, dense, device, rounds)
    yield times_as_fast("loss and its gradient", setting, "dense targets", *taken)

    taken = paired(ours, lambda: logits.detach() * 0.5, device, rounds)
    yield times_as_fast("loss and its gradient", setting, "one pass over the logits", *taken)

    def peaks(job: object) -> Spread:
        assert callable(job)
        found = []
        for _ in range(3):
            logits.grad = None
            reset_peak_memory(device)
            before = _peak(device)
            job()
            found.append((_peak(device) - before) / 1e6)
        return spread(found)

    if device.type != "cuda" and not Path("/proc/self/clear_refs").exists():
        yield Row(
            "memory of the same", setting, "dense targets", "MB", None, None, None, remark="skipped: not on Linux"
        )
        return
    one, other = peaks(ours), peaks(dense)
    ratio = spread([other.low / one.high, other.median / one.median, other.high / one.low])
    yield Row("memory of the same", setting, "dense targets", "MB", one, other, ratio, remark="beyond the logits")


def _peak(device: torch.device) -> int:
    return device_peak_memory(device) or peak_memory()
