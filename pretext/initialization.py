"""Initial weights from images: at the start all units have a similar scale, and none is dead.

Method: Kraehenbuehl, Doersch, Donahue and Darrell, *Data-dependent Initializations of Convolutional
Neural Networks* (ICLR 2016), within-layer part, and its released tool magic_init (the bias of 0.1, the whitening,
the fallbacks, and k-means centroids as filters: its types kmeans and fast_kmeans). The colorization paper initialized
its networks with this tool.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretext.backbones.contract import Init
from pretext.engine.progress import progress
from pretext.errors import UserError

MOST_PATCHES = 2**15
"""The largest number of patches per layer."""
MOST_VALUES = 2**27
"""The largest number of values in all patches of a layer, half a gigabyte; the released tool has the same limit."""
WIDEST = 1024
"""A patch with more values than this, and than the layer has units, is projected to fewer values."""
MOST_WORK = 2**38
"""The largest number of multiplications for k-means: samples x centroids x dimensions."""
BIAS = 0.1
"""The mean of every unit that has a bias, in its standard deviations: a positive mean passes more through a ReLU."""

_Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@torch.no_grad()
def initialize(network: nn.Module, images: Sequence[Tensor], method: Init, seed: int) -> tuple[str, ...]:
    """Set the weights of a network from images, layer by layer in the order of its forward pass.

    A layer is initialized from the outputs of the layers before it, which are already initialized. Layers are
    convolutions (strided, dilated, grouped), transposed convolutions and linear layers; the samples of a layer are all
    positions or tokens of all images. Everything else, such as position embeddings, keeps its values.

    - "random" does not change the network.
    - "data" keeps the direction of every unit's weights and scales it, so that over the samples each unit
      has standard deviation 1 and, if it has a bias, mean 0.1 (without one, its mean over its standard
      deviation). A unit that does not vary is only shifted.
    - "kmeans" first replaces the directions by centroids of the layer's input patches, see
      ``pretext.initialization.cluster_filters``; then it does the same as "data". Transposed and depthwise
      convolutions, layers with fewer samples than units, and inputs without any variance keep their directions.

    A module that is used several times, and weights that several modules share, are set at their first use. A layer
    that normalizes its own weights (weight standardization) gets the filters but cannot be scaled. A layer whose
    module is never called (attention may use only its weights) does not change. Batch norm uses the statistics of
    these images; its running statistics and the network's mode do not change. Other layers are in evaluation mode: no
    dropout.

    All images are one batch, so that the result does not depend on how they are split. The largest layer's features
    of all images must fit into memory two to three times. The result depends only on the images, the seed and the
    weights before; another machine or number of threads changes the rounding, which k-means may amplify.

    Args:
        network: a backbone, or a colorizer to initialize its head too; not compiled or wrapped.
        images: (B, 1, H, W) each, L in [0, 100], of one H and W; moved to the network's device.
        method: one of the three.
        seed: seed of the samples and the clustering, in [0, 2^63).

    Returns:
        The names of the layers that were scaled, in the order of the forward pass.

    Raises:
        UserError: the method is unknown, there are no images, or they have several sizes or values that are not finite.
    """
    if method not in get_args(Init):
        raise UserError(f"init is {method!r}: use one of {', '.join(get_args(Init))}")
    if method == "random":
        return ()
    if not sum(len(batch) for batch in images):
        raise UserError("there are no images to initialize from: give at least one, or use init random")
    sizes = {tuple(batch.shape[1:]) for batch in images}
    if len(sizes) > 1:
        raise UserError(f"images to initialize from have {len(sizes)} shapes, such as {sorted(sizes)[:2]}: use one")
    lightness = torch.cat(list(images))
    if not bool(torch.isfinite(lightness).all()):
        raise UserError("an image to initialize from has values that are not finite: leave it out")
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    scaled: list[str] = []

    def before(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(layer, _LAYERS)
        if method == "kmeans" and id(layer.weight) not in done:
            _set_filters(layer, inputs[0], generator)

    def after(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            assert isinstance(layer, _LAYERS)
            if id(layer.weight) in done:
                return None
            done.add(id(layer.weight))
            advance(1, name)
            result = _scale(layer, inputs[0], output)
            if result is not None:
                scaled.append(name)
            return result

        return hook

    # A parametrized weight is computed from other tensors, so it cannot be set.
    layers = [
        (name, layer)
        for name, layer in network.named_modules()
        if isinstance(layer, _LAYERS) and "weight" in layer._parameters
    ]
    with (
        ExitStack() as hooks,
        _batch_statistics(network),
        progress("initial weights", len(layers), "layers") as advance,
    ):
        for name, layer in layers:
            hooks.enter_context(layer.register_forward_pre_hook(before))
            hooks.enter_context(layer.register_forward_hook(after(name)))
        network(lightness.to(next(network.parameters()).device))
        advance(len(layers) - len(done), "")  # layers that are never called or share their weights
    return tuple(scaled)


@contextmanager
def _batch_statistics(network: nn.Module) -> Iterator[None]:
    """Set evaluation mode, but let batch norm use the batch's statistics, without updating the running ones."""
    modes = [(module, module.training) for module in network.modules()]
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    buffers = [(buffer, buffer.clone()) for norm in norms for buffer in norm.buffers()]
    network.eval()
    for norm in norms:
        norm.training = True
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for buffer, value in buffers:
            buffer.copy_(value)


def _set_filters(layer: _Layer, inputs: Tensor, generator: torch.Generator) -> None:
    """Replace the directions of a layer's weights by centroids of its input patches, where possible."""
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    units = layer.weight.shape[0] // groups
    # The one centroid of a depthwise filter would be the mean of the patches, which whitening makes zero.
    if isinstance(layer, nn.ConvTranspose2d) or units == 1:
        return
    patches = sample_patches(layer, inputs, generator)
    if len(patches) < units:
        return
    for weight, group in zip(layer.weight.split(units), patches.unbind(1), strict=True):
        filters = cluster_filters(group, units, generator)
        if filters is not None:
            weight.copy_(filters.view_as(weight))


def _scale(layer: _Layer, inputs: Tensor, output: Tensor) -> Tensor | None:
    """Scale and shift the units of a layer by its output. Return the new output, or None if it cannot be scaled."""
    axis = output.ndim - 1 if isinstance(layer, nn.Linear) else 1
    variance, mean = torch.var_mean(output, [dim for dim in range(output.ndim) if dim != axis], correction=0)
    std = variance.sqrt()
    # Rounding errors of a constant output are below this limit.
    scale = torch.where(std > 1e-5 * mean.abs() + 1e-30, std, 1.0)
    bias: Tensor | None = layer.bias
    before = [values.clone() for values in (layer.weight, bias) if values is not None]
    if isinstance(layer, nn.ConvTranspose2d):
        grouped = layer.weight.view(layer.groups, -1, *layer.weight.shape[1:])
        grouped.div_(scale.view(layer.groups, 1, -1, 1, 1))
    else:
        layer.weight.div_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
    shift = torch.zeros_like(mean)
    if bias is not None:
        shift = BIAS - mean / scale
        bias.copy_(bias / scale + shift)
    # Not the old output scaled: its rounding differs, and deep networks amplify that.
    result: Tensor = layer.forward(inputs)
    if type(layer).forward not in (kind.forward for kind in _LAYERS):
        # A subclass may do more than its parent, such as normalize the weights first.
        along = [-1 if dim == axis else 1 for dim in range(output.ndim)]
        if not torch.allclose(result, output / scale.view(along) + shift.view(along), rtol=1e-2, atol=1e-2):
            for values, value in zip((layer.weight, bias), before, strict=False):
                assert values is not None
                values.copy_(value)
            return None
    return result


def sample_patches(layer: nn.Conv2d | nn.Linear, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """Return input patches of a layer's filters, at positions drawn without replacement, or at all if there are few.

    Args:
        layer: gives kernel, stride, padding (always with zeros), dilation and groups. For a linear layer, a sample
            is a token.
        inputs: the layer's input, (B, C, H, W); (..., C) for a linear layer.
        generator: draws the positions.

    Returns:
        (N, groups, values of a patch), float32, on the CPU, in the order of the positions. N is at most 32,768, or
        less if that would be more than half a gigabyte.
    """
    if isinstance(layer, nn.Linear):
        tokens = inputs.reshape(-1, layer.in_features)
        return tokens[_draw(len(tokens), layer.in_features, generator).to(inputs.device)][:, None].float().cpu()
    (high, wide), (down, across), (apart_y, apart_x) = layer.kernel_size, layer.stride, layer.dilation
    if layer.padding == "valid":
        above, left = 0, 0
    elif layer.padding == "same":
        above, left = apart_y * (high - 1) // 2, apart_x * (wide - 1) // 2
    else:
        above, left = (int(side) for side in layer.padding)
    count, channels, height, width = inputs.shape
    rows = (height + 2 * above - apart_y * (high - 1) - 1) // down + 1
    columns = (width + 2 * left - apart_x * (wide - 1) - 1) // across + 1
    drawn = _draw(count * rows * columns, channels * high * wide, generator).to(inputs.device)
    image, row, column = drawn // (rows * columns), drawn // columns % rows, drawn % columns
    patches = inputs.new_zeros(len(drawn), channels, high, wide)
    for i in range(high):
        for j in range(wide):
            y, x = row * down - above + i * apart_y, column * across - left + j * apart_x
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
            values = inputs[image, :, y.clamp(0, height - 1), x.clamp(0, width - 1)]
            patches[:, :, i, j] = values * inside[:, None]
    return patches.view(len(drawn), layer.groups, -1).float().cpu()


def cluster_filters(patches: Tensor, units: int, generator: torch.Generator) -> Tensor | None:
    """Return filters that match the k-means centroids of whitened patches.

    The patches are centered, whitened in as many of their principal components as there are units (PCA;
    those with less than a millionth of the patches' mean square are left out) and brought to unit norm;
    mini-batch k-means gives as many centroids c. A filter is the direction whose response is c . whitened
    patch; its scale is arbitrary.

    Wide layers are approximated. A patch of more than 1,024 values (or the number of units, if larger) is first
    reduced to that many Gaussian projections, as by the tool's fast types. K-means makes at most 100 passes. If these
    would be more than 2^38 multiplications, it makes fewer (at least one) and starts from random samples instead of
    k-means++.

    Args:
        patches: (N, D), float32, with N >= units.
        units: the number of filters.
        generator: draws the projections and k-means' seed.

    Returns:
        (units, D), float32; None if the patches do not vary.
    """
    from sklearn.cluster import MiniBatchKMeans  # not at the top: the import is slow

    count, values = patches.shape
    projection = None
    if values > max(units, WIDEST):
        projection = torch.randn(values, max(units, WIDEST), generator=generator) / math.sqrt(values)
        patches = patches @ projection
    # Narrow layers have pixels as input: their least components need more than single precision.
    centered = patches.to(torch.float64 if patches.shape[1] <= WIDEST else torch.float32)
    centered = centered - centered.mean(0)
    variances, components = torch.linalg.eigh(centered.T @ centered / count)
    variances, components = variances[-units:], components[:, -units:]
    # Below this limit, a filter's response is not larger than rounding in single precision; so are constant patches.
    has_variance = variances > 1e-6 * patches.square().sum(1).mean()
    if not has_variance.any():
        return None
    whitening = components[:, has_variance] / variances[has_variance].sqrt()
    white = centered @ whitening
    white = (white / white.norm(dim=1, keepdim=True).clamp(min=1e-12)).float().numpy()
    passes = max(1, min(100, MOST_WORK // (white.size * units)))
    clustering = MiniBatchKMeans(
        units,
        init="k-means++" if passes == 100 else "random",
        max_iter=passes,
        batch_size=min(count, 10 * units),
        n_init=1,
        random_state=int(torch.randint(2**31, (), generator=generator)),
    ).fit(white)
    filters: Tensor = (torch.from_numpy(clustering.cluster_centers_).to(whitening) @ whitening.T).float()
    return filters if projection is None else filters @ projection.T


def _draw(count: int, values: int, generator: torch.Generator) -> Tensor:
    """Draw the indices of the samples to use, of ``count`` samples with ``values`` values each, in ascending order."""
    most = max(1, min(MOST_PATCHES, MOST_VALUES // values))
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:most].sort().values
