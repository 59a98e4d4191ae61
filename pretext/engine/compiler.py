"""What torch.compile must leave alone."""

from collections.abc import Callable
from typing import TypeVar

import torch

F = TypeVar("F", bound=Callable[..., object])


def not_compiled(function: F) -> F:
    """Keep torch.compile out of a function: a decorator that also keeps its types."""
    kept: F = torch.compiler.disable(function)
    return kept
