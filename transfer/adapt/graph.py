"""The graph of a network: its forward pass as autograd records it, call by call.

A network may be written in any way: parallel branches, shared modules, skip connections and functions
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


class GraphNode(NamedTuple):
    """One call of a module."""

    name: str
    module: nn.Module
    inputs: tuple[Node, ...]
    """The nodes that computed its input tensors at the time of the call."""
    outputs: tuple[Node, ...]


class Trace(NamedTuple):
    """The graph of a forward pass."""

    calls: list[GraphNode]
    """In the order in which they ended."""
    stages: dict[str, Node]
    uses: Counter[Node]
    """The number of times that later nodes use a node's output on the way to a stage; being a stage counts as a use."""


def trace(network: nn.Module, rgb: Tensor) -> Trace:
    """Run a network once, without changing it, and record its graph.

    Args:
        network: sRGB in, stage name -> features out; in eval mode, all its parameters requiring gradients.
        rgb: (B, 3, H, W), float in [0, 1].
    """
    calls: list[GraphNode] = []
    begun: list[tuple[Node, ...]] = []

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        begun.append(tuple(_nodes(inputs)))

    def after(name: str, module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            output = output.clone()  # a separate node, also if the module returns its input or changes it in place
        calls.append(GraphNode(name, module, begun.pop(), tuple(_nodes(output))))
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
    """Return all nodes that some nodes depend on, and these nodes."""
    known, left = set(nodes), list(nodes)
    while left:
        for node, _ in left.pop().next_functions:
            if node is not None and node not in known:
                known.add(node)
                left.append(node)
    return known


def leaves(nodes: Iterable[Node]) -> set[nn.Parameter]:
    """Return the parameters among some nodes."""
    variables = {getattr(node, "variable", None) for node in nodes}
    return {leaf for leaf in variables if isinstance(leaf, nn.Parameter)}  # not the image


def _nodes(value: Any) -> Iterator[Node]:
    """Yield the nodes of the tensors in a value."""
    if isinstance(value, Tensor):
        if value.grad_fn is not None:
            yield value.grad_fn
    elif isinstance(value, dict):
        yield from _nodes(tuple(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _nodes(part)
