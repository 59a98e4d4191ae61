"""What torch.compile must leave alone."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def not_compiled(function: Callable[P, T]) -> Callable[P, T]:
    """Keep torch.compile out of a function: a decorator.

    ``torch.compiler.disable`` alone would import torch's compiler, which takes seconds, into every process.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        kept: Callable[P, T] = torch.compiler.disable(function) if torch.compiler.is_compiling() else function
        return kept(*args, **kwargs)

    return call
