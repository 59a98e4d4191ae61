"""How many operations a training step's products and convolutions take, forward and backward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from pretext.engine.trainer import HasLoss


def operations(network: HasLoss, rgb: Tensor, labels: Tensor) -> float:
    """Additions and multiplications that an image's loss and its gradient take, by ``FlopCounterMode``.

    Convolutions and products of matrices, a head's too; not what acts element by element (color, norms, activations,
    loss, optimizer). Attention counts as its products, once, however a kernel computes it. The weights' gradients are
    added to what is there.

    Args:
        network: in training.
        rgb: (B, 3, H, W), uint8, some images, on its device.
        labels: (B,), likewise.
    """
    counted = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution})
    with sdpa_kernel(SDPBackend.MATH), counted:
        loss = network.loss(rgb, labels)
        (loss if isinstance(loss, Tensor) else loss[0]).backward()
    return float(counted.get_total_flops()) / len(rgb)


def _convolution(
    gradient: list[int], x: list[int], weight: list[int], *rest: Any, out_shape: Sequence[Any] | None = None
) -> int:
    """Of a convolution's gradients, given the shapes: each costs what the convolution did.

    torch's own formula counts the weight's gradient as often again as the convolution has groups.
    """
    _, _, _, _, transposed, _, _, asked = rest
    return int(conv_flop_count(x, weight, gradient, transposed) * sum(asked[:2]))
