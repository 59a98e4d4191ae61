"""What depends on what in a network: its forward pass as autograd records it, call by call.

Nothing is asked of how a network is written: parallel branches, shared modules, skip connections and functions
that are no modules are all in the graph.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

COPY = "CloneBackward0"
"""The name of nodes that only copy; tracing adds some."""


class Call(NamedTuple):
    """One call of a module."""

    name: str
    module: nn.Module
    inputs: tuple[Node, ...]
    """What made its tensors, as they were then."""
    outputs: tuple[Node, ...]


class Trace(NamedTuple):
    """One forward pass."""

    calls: list[Call]
    """In the order in which they ended."""
    stages: dict[str, Node]
    uses: Counter[Node]
    """How often what a node made is used on the way to a stage, being a stage included."""


def trace(network: nn.Module, rgb: Tensor) -> Trace:
    """Run a network once, without changing it, and note what made what.

    Args:
        network: sRGB in, stage name -> features out; in eval mode, all its parameters asking for gradients.
        rgb: (B, 3, H, W), float in [0, 1].
    """
    calls: list[Call] = []
    begun: list[tuple[Node, ...]] = []

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        begun.append(tuple(_nodes(inputs)))

    def after(name: str, module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            output = output.clone()  # a node of its own, also for what hands its input on or is changed in place
        calls.append(Call(name, module, begun.pop(), tuple(_nodes(output))))
        return output

    hooks = []
    for name, module in network.named_modules():
        hooks += [module.register_forward_pre_hook(before), module.register_forward_hook(partial(after, name))]
    try:
        with torch.enable_grad():
            features: dict[str, Tensor] = network(rgb.detach().clone().requires_grad_().clone())
    finally:
        for hook in hooks:
            hook.remove()
    stages = {name: next(_nodes(value)) for name, value in features.items()}
    uses = Counter(stages.values())
    for node in ancestors(stages.values()):
        uses.update(child for child, _ in node.next_functions if child is not None)
    return Trace(calls, stages, uses)


def ancestors(nodes: Iterable[Node]) -> set[Node]:
    """All that some nodes depend on, and they themselves."""
    found, left = set(nodes), list(nodes)
    while left:
        for node, _ in left.pop().next_functions:
            if node is not None and node not in found:
                found.add(node)
                left.append(node)
    return found


def leaves(nodes: Iterable[Node]) -> set[nn.Parameter]:
    """The parameters among what some nodes depend on."""
    found = {getattr(node, "variable", None) for node in nodes}
    return {leaf for leaf in found if isinstance(leaf, nn.Parameter)}  # not the image


def _nodes(value: Any) -> Iterator[Node]:
    """Of the tensors in a value."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield value.grad_fn
    elif isinstance(value, dict):
        yield from _nodes(tuple(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _nodes(part)
