"""Batch norm folded into the layers before it (the paper's "absorption"), for training without it.

Method: the paper's postprocessing of its networks; released ``batch_norm_absorb.py``, here for any network.
"""

from collections import Counter

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.modules.batchnorm import _BatchNorm

from pretext.errors import UserError
from transfer.adapt.graph import COPY, Trace, trace

Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)

_TOLERANCE = 1e-3


def is_plain(module: nn.Module) -> bool:
    """Return whether a module is a layer that uses its weights directly, without standardizing or computing them."""
    from timm.layers import Conv2dSame  # not at the top: the import takes seconds

    forwards = {kind.forward for kind in (*LAYERS, Conv2dSame)}
    return isinstance(module, LAYERS) and type(module).forward in forwards and "weight" in module._parameters


def absorb(network: nn.Module, example: Tensor) -> list[str]:
    """Take batch norm, as it is in evaluation, out of a network, in place; the features stay, up to rounding.

    With s = scale / sqrt(variance + eps), the weights of unit u of the layer before are multiplied by s_u, and its
    bias b becomes s_u (b - mean_u) + shift_u. That is correct if only the norm uses the layer's output. A norm of
    anything else, such as a ReLU's output in ``Vgg``, becomes a 1 x 1 convolution for each channel: folded into the
    convolution after it, it would be wrong at borders, where zeros are padded after the norm.

    Args:
        network: sRGB in, stage name -> features out; in evaluation mode, all its parameters requiring gradients.
        example: (1, 3, H, W), float in [0, 1], of a size that it takes.

    Returns:
        The names of the norms that became separate convolutions.

    Raises:
        UserError: a norm cannot be absorbed.
    """
    graph = trace(network, example)
    times = Counter(call.module for call in graph.calls)
    makers = {call.outputs[0]: call.module for call in graph.calls if is_plain(call.module) and times[call.module] == 1}
    norms = {call.module: call for call in graph.calls if isinstance(call.module, _BatchNorm)}
    separate = []
    with torch.no_grad():
        before = network(example)
        for norm, call in norms.items():
            assert isinstance(norm, _BatchNorm)
            layer = _layer_before(call.inputs[0], makers, graph) if times[norm] == 1 else None
            if norm.running_mean is None or norm.running_var is None:
                raise UserError(f"batch norm {call.name} keeps no statistics to absorb: set batch_norm to train")
            scale = (norm.running_var + norm.eps).rsqrt() * (1.0 if norm.weight is None else norm.weight)
            shift = (0.0 if norm.bias is None else norm.bias) - norm.running_mean * scale
            if layer is not None:
                if isinstance(layer, nn.ConvTranspose2d):
                    by_group = layer.weight.view(layer.groups, -1, *layer.weight.shape[1:])
                    by_group *= scale.view(layer.groups, 1, -1, 1, 1)
                else:
                    layer.weight *= scale.view(-1, *[1] * (layer.weight.ndim - 1))
                layer.bias = nn.Parameter(shift if layer.bias is None else layer.bias * scale + shift)
                rest = list(norm.children()) or [nn.Identity()]  # timm's may hold the activation that follows
            else:
                # A convolution that scales and shifts every channel.
                affine: nn.Conv2d = nn.utils.skip_init(nn.Conv2d, len(scale), len(scale), 1, groups=len(scale))
                affine = affine.to(scale)
                assert affine.bias is not None
                affine.weight.copy_(scale.view(-1, 1, 1, 1))
                affine.bias.copy_(shift)
                rest = [affine, *norm.children()]
                separate.append(call.name)
            _replace(network, norm, rest[0] if len(rest) == 1 else nn.Sequential(*rest))
        try:
            after = network(example)
        except RuntimeError as error:  # the input of a norm is not a map
            raise UserError(
                "the input of a batch norm is not a map, so it cannot be absorbed: set batch_norm to frozen"
            ) from error
    for name, features in before.items():
        if not torch.allclose(after[name], features, rtol=0, atol=_TOLERANCE * float(features.abs().max())):
            raise UserError(f"its batch norms cannot be absorbed (stage {name} would change): set batch_norm to frozen")
    return separate


def _layer_before(node: Node, makers: dict[Node, nn.Module], graph: Trace) -> Layer | None:
    """Return the layer whose output a node is, if nothing else uses the output."""
    while graph.uses[node] == 1 and node not in makers and node.name() == COPY:
        node = node.next_functions[0][0]  # type: ignore[assignment]
    layer = makers.get(node)
    assert layer is None or isinstance(layer, LAYERS)
    return layer if graph.uses[node] == 1 else None


def _replace(network: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Replace a module in every place of a network."""
    for module in list(network.modules()):
        for name, child in module._modules.items():
            if child is old:
                setattr(module, name, new)
