"""Rescaling of weights before fine-tuning, so that all layers learn at about the same pace.

Method: Kraehenbuehl, Doersch, Donahue and Darrell, *Data-dependent Initializations of Convolutional Neural Networks*
(ICLR 2016), and its released tool magic_init with -cs, which prepared the paper's networks for fine-tuning.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from pretext.errors import UserError
from pretext.initialization import initialize
from transfer.adapt.bn_fold import LAYERS, Layer, is_plain

_ROUNDS = 10
_CLOSE = 0.01  # tolerance of a ratio's logarithm
_AT_ONCE = 16  # images


def rescale(network: nn.Module, images: Tensor, stage: str, random: bool) -> tuple[float, float]:
    """Rescale a network that has absorbed its batch norms, in place.

    Random weights are first scaled, in the order of the forward pass, so that every unit has standard deviation 1 and
    mean 0.1 (the within-layer part, ``pretext.initialization``). Learned weights skip this part, because it would
    change what units mean to the layers after them; the released tool uses it only for weights that are zero. Then both
    kinds are calibrated: see ``calibrate``.

    Args:
        network: sRGB in, stage name -> features out; in evaluation mode, without batch norm.
        images: (N, 3, H, W), uint8, on its device.
        stage: the last stage that is used.
        random: whether the weights are random.

    Returns:
        As ``calibrate``.

    Raises:
        UserError: there are no images, or no gradient gets through the network.
    """
    if not len(images):
        raise UserError("there are no images to rescale with: pass at least one")
    if random:
        initialize(network, [images], "data", seed=0)
    return calibrate(network, images, stage)


def calibrate(network: nn.Module, images: Tensor, stage: str) -> tuple[float, float]:
    """Give all layers the same ratio of gradient to weights, in place: the between-layer part.

    The ratio of a layer is sqrt(mean(dW^2) / mean(W^2)), for gradients of N(0, 1) at the end. In each of up to ten
    rounds the weights of a layer are multiplied by sqrt(ratio / target), the target being the geometric mean of all
    ratios times d^(1 / layers), where d is the standard deviation at the end, by which d goes to 1. Biases follow the
    scale of their layer's inputs, as it is measured. So a network that is positively homogeneous, such as a chain of
    convolutions, ReLUs and pools, gives the same features up to a factor for each stage. In other networks, branches
    that are added may get different factors. With an activation that is not homogeneous the rounds may diverge, so the
    result is the round that came nearest to the target.

    The rounds end early when all ratios are within 1% of the target. (The released tool compares the quotient of
    logarithms, which means little near a target of 1, and draws other gradients in each round.)

    Args:
        network: as for ``rescale``.
        images: as for ``rescale``.
        stage: the end.

    Returns:
        The largest ratio over the smallest, before and after.

    Raises:
        UserError: no gradient gets through the network, or its features are constant.
    """
    spreads: list[float] = []
    least, best, state = math.inf, 0, network.state_dict()
    for done in range(_ROUNDS + 1):
        ratios, inputs, deviation = _measure(network, images, stage)
        if not ratios or not 0 < deviation < math.inf:
            if done:  # it diverged: the best round stays
                break
            raise UserError("it cannot be rescaled: no gradient reaches its first layers, or its features are constant")
        logs = {layer: math.log(ratio) for layer, ratio in ratios.items()}
        target = (sum(logs.values()) + math.log(deviation)) / len(logs)
        spreads.append(math.exp(max(logs.values()) - min(logs.values())))
        off = max(abs(log - target) for log in logs.values())
        if off < least:
            least, best = off, done
            state = {name: value.clone() for name, value in network.state_dict().items()}
        if off < _CLOSE or done == _ROUNDS:
            break
        factors = {layer: math.exp((log - target) / 2) for layer, log in logs.items()}
        _apply(network, images[:_AT_ONCE], factors, inputs)
    network.load_state_dict(state)
    return spreads[0], spreads[best]


def _measure(network: nn.Module, images: Tensor, stage: str) -> tuple[dict[Layer, float], dict[Layer, float], float]:
    """Return every layer's ratio and mean absolute input, and the mean standard deviation of the end's units."""
    layers = list({id(layer.weight): layer for layer in _layers(network) if is_plain(layer)}.values())
    if not layers:
        return {}, {}, 0.0
    sums = [torch.zeros_like(layer.weight) for layer in layers]
    inputs: dict[Layer, float] = {}
    ends: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)

    def note(layer: Layer, x: Tensor) -> None:
        inputs.setdefault(layer, float(x.detach().abs().mean()))

    with _at_layers(network, note), torch.enable_grad():
        for batch in images.split(_AT_ONCE):
            end = network(batch)[stage]
            noise = torch.randn(end.shape, generator=generator).to(end)
            gradients = torch.autograd.grad(end, [layer.weight for layer in layers], noise, allow_unused=True)
            for total, gradient in zip(sums, gradients, strict=True):
                if gradient is not None:
                    total += gradient
            ends.append(end.detach().transpose(0, 1).flatten(1))
    ratios = {}
    for layer, total in zip(layers, sums, strict=True):
        ratio = float(total.square().mean().div(layer.weight.detach().square().mean()).sqrt())
        if 0 < ratio < math.inf:  # else the end does not depend on it, or its units are dead
            ratios[layer] = ratio
    return ratios, inputs, float(torch.cat(ends, 1).std(1, correction=0).mean())


@torch.no_grad()
def _apply(network: nn.Module, batch: Tensor, factors: dict[Layer, float], inputs: dict[Layer, float]) -> None:
    """Multiply the weights of layers; and their biases, by the change of their inputs too."""
    seen: set[Layer] = set()

    def change(layer: Layer, x: Tensor) -> None:
        if layer in seen:
            return
        seen.add(layer)
        factor = factors.get(layer, 1.0)
        if factor != 1:
            layer.weight *= factor
        if layer.bias is not None and inputs[layer] > 0:
            layer.bias *= factor * float(x.abs().mean()) / inputs[layer]

    with _at_layers(network, change):
        network(batch)


@contextmanager
def _at_layers(network: nn.Module, look: Callable[[Layer, Tensor], None]) -> Iterator[None]:
    """Call ``look`` with every layer and its input just before the layer runs, within this context."""

    def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        look(cast(Layer, layer), inputs[0])

    hooks = [layer.register_forward_pre_hook(hook) for layer in _layers(network)]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _layers(network: nn.Module) -> Iterator[Layer]:
    return (module for module in network.modules() if isinstance(module, LAYERS))
