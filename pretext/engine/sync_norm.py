"""Batch norm over the images of all processes, also where torch has none: on CPUs, by gloo."""

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretext.engine import distributed
from pretext.errors import UserError


def synchronize_norms(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with batch norms whose statistics are those of all processes' images.

    On a GPU they are torch's. All processes must have the same number of images. The names of weights stay.

    Raises:
        UserError: there is a kind of batch norm that cannot be synchronized on this device.
    """
    if device.type == "cuda":
        from timm.layers import convert_sync_batchnorm  # not at the top: the import takes seconds

        synchronized: nn.Module = convert_sync_batchnorm(network)
        return synchronized
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            if type(module) not in _KINDS:
                raise UserError(
                    f"training.batch_norm is synchronized, but {type(module).__name__} can be synchronized on GPUs "
                    "only; set it to local, or choose another backbone"
                )
            module.__class__ = _KINDS[type(module)]
    return network


class _OverProcesses(_BatchNorm):
    """A batch norm whose mean and variance in training are those of all processes, by differentiable means."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        x = input.float()
        mean = distributed.mean_with_gradient(x.mean(axes))
        centered = x - mean.view(shape)
        variance = distributed.mean_with_gradient(centered.square().mean(axes))
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            count = x.numel() // x.shape[1] * distributed.world_size()
            with torch.no_grad():
                self.running_mean.lerp_(mean, momentum)
                self.running_var.lerp_(variance * (count / (count - 1)), momentum)
        normalized = centered * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            normalized = normalized * self.weight.view(shape) + self.bias.view(shape)
        return normalized.to(input.dtype)


class _OverProcesses1d(_OverProcesses, nn.BatchNorm1d):
    """For vectors."""


class _OverProcesses2d(_OverProcesses, nn.BatchNorm2d):
    """For images."""


_KINDS: dict[type[_BatchNorm], type[_BatchNorm]] = {
    nn.BatchNorm1d: _OverProcesses1d,
    nn.BatchNorm2d: _OverProcesses2d,
}
