"""A layer that computes in float32 whatever surrounds it: the last of a head, too small to gain by bf16."""

from typing import Any

import torch
from torch import Tensor, nn


class Exact(nn.Module):
    """A module in float32, also where autocast is on.

    Args:
        inner: takes and gives what it will; it is handed its input in float32.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        """What ``inner`` gives."""
        with torch.autocast(x.device.type, enabled=False):
            return self.inner(x.float())
