"""What is trained and what is not, by what a stage depends on."""

from collections.abc import Collection
from typing import NamedTuple

from torch import nn

from transfer.adapt.graph import Trace, ancestors, leaves


class Split(NamedTuple):
    """What stays as it is while a network is trained."""

    weights: list[str]
    """Names of the parameters that are not trained."""
    modules: list[str]
    """Names of the modules that act as in evaluation: their statistics stay, nothing is dropped."""


def split(network: nn.Module, trace: Trace, freeze_to: str, used: Collection[str]) -> Split:
    """What must stay for the features of a stage to stay, to the bit; and what no used stage depends on.

    Args:
        network: what was traced.
        trace: its forward pass.
        freeze_to: the stage; "" for none.
        used: the stages that something is learned from.
    """
    kept = ancestors([trace.stages[freeze_to]]) if freeze_to else set()
    frozen, needed = leaves(kept), leaves(ancestors([trace.stages[stage] for stage in used]))
    return Split(
        [name for name, weight in network.named_parameters() if weight in frozen or weight not in needed],
        # One that gives several tensors may make some of them only later.
        list(dict.fromkeys(call.name for call in trace.calls if call.outputs and kept.issuperset(call.outputs))),
    )
