"""Networks to adapt, small and in the state of trained ones, and images to show them."""

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretext.data.bundled import Bundled
from transfer.networks import Network, open_network

SIDE = 64


@cache
def load_photographs(count: int, side: int = SIDE) -> Tensor:
    """Return color photographs, (count, 3, side, side), uint8."""
    dataset = Bundled("train", side)
    images = [np.asarray(dataset.read(index * len(dataset) // count)) for index in range(count)]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


def open_trained_network(spec: str, side: int = SIDE) -> Network:
    """Open a network as if it had been trained, see ``randomize_norms``."""
    return randomize_norms(open_network(spec), side)


def randomize_norms(network: Network, side: int) -> Network:
    """Give its batch norms statistics, scales and shifts, in place; images of ``side`` pixels are its usual ones."""
    generator = torch.Generator().manual_seed(1)
    for norm in batch_norms(network.module):
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.normal_(0, 0.1, generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
        if norm.affine:
            norm.weight.data.uniform_(0.5, 1.5, generator=generator)
            norm.bias.data.normal_(0, 0.1, generator=generator)
    network.view_size = side
    return network


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@torch.no_grad()
def compute_features(network: nn.Module, rgb: Tensor) -> dict[str, Tensor]:
    features: dict[str, Tensor] = network(rgb)
    return features


def take_steps(network: nn.Module, rgb: Tensor, steps: int = 3, rate: float = 0.01) -> None:
    """Plain SGD toward larger features of every stage, weights that decay."""
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, rate, momentum=0.9, weight_decay=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack([value.square().mean().neg() for value in network(rgb).values()]).sum().backward()
        nn.utils.clip_grad_norm_(weights, 1)
        optimizer.step()
