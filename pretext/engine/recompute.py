"""Activation checkpointing: a deep network's inner features are computed again instead of kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

Contexts = Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]


def recompute_activations(network: nn.Module) -> int:
    """Keep only what goes into each of a network's blocks, and compute the rest again for the gradient.

    A block is an element of a sequence of modules that have parts of their own: a residual block, a
    transformer block, a stage of the paper's nets. Results are the same to the bit: random numbers are
    drawn again as they were, and batch norms count a batch once.

    Args:
        network: changed in place; its state dict stays as it is.

    Returns:
        How many blocks there are.
    """
    found = list(blocks(network))
    for block in found:
        block.forward = _Recomputed(block, block.forward)
    return len(found)


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The innermost sequences' elements, in order."""
    for child in module.children():
        inner = list(blocks(child))
        if inner:
            yield from inner
        elif _is_sequence(module) and any(True for _ in child.children()):
            yield child


def _is_sequence(module: nn.Module) -> bool:
    """Whether the children come one after another: by the module's type, or because they all are sequences."""
    if isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)):
        return True
    children = list(module.children())
    return len(children) > 1 and sum(isinstance(child, nn.Sequential) for child in children) > len(children) / 2


class _Recomputed:
    """The forward pass of a block, checkpointed."""

    def __init__(self, block: nn.Module, forward: Callable[..., Any]) -> None:
        self.forward = forward
        norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
        self.contexts: Contexts = partial(_contexts, norms)

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        return checkpoint(self.forward, *inputs, use_reentrant=False, context_fn=self.contexts, **named)


def _contexts(norms: list[_BatchNorm]) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), _uncounted(norms)


@contextmanager
def _uncounted(norms: list[_BatchNorm]) -> Iterator[None]:
    """Within it the norms compute as ever, but do not move their running statistics a second time."""
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]  # type: ignore[union-attr]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
