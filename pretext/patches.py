"""Input patches of a layer, and filters that are their k-means centroids.

Source: the released tool magic_init of Kraehenbuehl et al. (ICLR 2016), types kmeans and fast_kmeans.
"""

import math

import torch
from torch import Tensor, nn

MOST_PATCHES = 2**15
"""Per layer."""
MOST_VALUES = 2**27
"""Of a layer's patches in all, half a gigabyte: the limit that the released tool has too."""
WIDEST = 1024
"""Values of a patch beyond which it is projected, unless there are more units than that."""
MOST_WORK = 2**38
"""Multiplications that k-means may take, as sample x centroid x dimension."""


def sample_patches(layer: nn.Conv2d | nn.Linear, inputs: Tensor, generator: torch.Generator) -> Tensor:
    """What the filters of a layer see at positions drawn without replacement, or at all if they are few.

    Args:
        layer: says kernel, stride, padding (taken for zeros), dilation and groups; of a linear layer, a
            sample is a token.
        inputs: of the layer, (B, C, H, W); (..., C) for a linear layer.
        generator: draws the positions.

    Returns:
        (N, groups, values of a patch), float32, on the CPU; N is at most 32,768, and less where that
        would be more than half a gigabyte. In the order of the positions.
    """
    if isinstance(layer, nn.Linear):
        tokens = inputs.reshape(-1, layer.in_features)
        return tokens[_draw(len(tokens), layer.in_features, generator).to(inputs.device)][:, None].float().cpu()
    (high, wide), (down, across), (apart_y, apart_x) = layer.kernel_size, layer.stride, layer.dilation
    above, left = _padding(layer)
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
            seen = inputs[image, :, y.clamp(0, height - 1), x.clamp(0, width - 1)]
            patches[:, :, i, j] = seen * inside[:, None]
    return patches.view(len(drawn), layer.groups, -1).float().cpu()


def cluster_filters(patches: Tensor, units: int, generator: torch.Generator) -> Tensor | None:
    """Filters that match the k-means centroids of whitened patches.

    The patches are centered, whitened in as many of their principal components as there are units (PCA;
    those with less than a millionth of the patches' mean square are left out) and brought to unit norm;
    mini-batch k-means gives as many centroids c; a filter is the direction whose response is c . whitened
    patch. Its scale means nothing.

    Cuts for wide layers: beyond 1,024 values (or the number of units, if larger) a patch is replaced by so
    many Gaussian projections of it first, as by the tool's fast types. K-means makes 100 passes at most,
    fewer (at least one) where they would be more than 2^38 multiplications; it then starts from random
    samples instead of k-means++.

    Args:
        patches: (N, D), float32, with N >= units.
        units: how many filters.
        generator: draws the projections and k-means' seed.

    Returns:
        (units, D), float32; None if the patches do not vary.
    """
    from sklearn.cluster import MiniBatchKMeans  # not at the top: it takes longer to import than most jobs to start

    count, values = patches.shape
    projection = None
    if values > max(units, WIDEST):
        projection = torch.randn(values, max(units, WIDEST), generator=generator) / math.sqrt(values)
        patches = patches @ projection
    # Narrow layers see pixels, whose least components have hardly more variance than single precision resolves.
    centered = patches.to(torch.float64 if patches.shape[1] <= WIDEST else torch.float32)
    centered = centered - centered.mean(0)
    variances, components = torch.linalg.eigh(centered.T @ centered / count)
    variances, components = variances[-units:], components[:, -units:]
    # Below, single precision could not tell a filter's response from rounding; constant patches are there too.
    kept = variances > 1e-6 * patches.square().sum(1).mean()
    if not kept.any():
        return None
    whitening = components[:, kept] / variances[kept].sqrt()
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
    """Which of ``count`` samples of so many values are taken, in ascending order."""
    most = max(1, min(MOST_PATCHES, MOST_VALUES // values))
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:most].sort().values


def _padding(layer: nn.Conv2d) -> list[int]:
    """Above and to the left."""
    if layer.padding == "valid":
        return [0, 0]
    if layer.padding == "same":
        return [apart * (side - 1) // 2 for side, apart in zip(layer.kernel_size, layer.dilation, strict=True)]
    return [int(side) for side in layer.padding]
