"""Regions of an image: anchors, pooling of feature maps in boxes, and the last stages of a backbone on boxes.

Anchors and pooling use the grid of a map, see ``alignment``. torchvision's own assume that the stride is the image's
size divided by the map's, rounded, and that the first place lies on the first pixel.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from pretext.backbones.contract import Stage
from pretext.errors import UserError
from transfer.adapt import Adapted
from transfer.tasks.alignment import FeatureAxis, FeatureNetwork, probe_maps, probe_side, stage_of

if TYPE_CHECKING:
    from torchvision.models.detection.image_list import ImageList

_RATIOS = (0.5, 1.0, 2.0)
_POINTS = 2  # along each side of a cell
_CANONICAL = 224 / 32  # Lin et al. 2017, eq. 1: boxes of 224 x 224 go two levels above that of anchors of 32


class Anchors(nn.Module):
    """Boxes of some sizes and of the ratios 1:2, 1:1 and 2:1 (height to width) around every place of every map.

    Args:
        maps: the grid of each map, in order.
        sizes: for each map: roots of the boxes' areas, in pixels.
    """

    def __init__(self, maps: Sequence[FeatureAxis], sizes: Sequence[Sequence[float]]) -> None:
        super().__init__()
        self.maps = maps
        self.shapes = []
        for of_map in sizes:
            halves = [(size / ratio**0.5 / 2, size * ratio**0.5 / 2) for ratio in _RATIOS for size in of_map]
            self.shapes.append(torch.tensor([(-x, -y, x, y) for x, y in halves], dtype=torch.float32))

    def num_anchors_per_location(self) -> list[int]:
        """Return the number of anchors at a place, for each map; torchvision's name."""
        return [len(shapes) for shapes in self.shapes]

    def forward(self, images: "ImageList", maps: list[Tensor]) -> list[Tensor]:
        """Return the anchors of all maps for each image, (n, 4): place by place, row by row."""
        anchors = []
        for grid, shapes, values in zip(self.maps, self.shapes, maps, strict=True):
            # A pixel's middle is half a pixel from its edge, where coordinates of boxes count from.
            y, x = (
                grid.first + 0.5 + grid.stride * torch.arange(side, dtype=torch.float32, device=values.device)
                for side in values.shape[2:]
            )
            middles = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).repeat(1, 1, 2).view(-1, 1, 4)
            anchors.append((middles + shapes.to(values.device)).view(-1, 4))
        return [torch.cat(anchors)] * len(images.image_sizes)


class Pool(nn.Module):
    """Pooling of maps in boxes, to maps of one size.

    Args:
        maps: the grid of each map, in order.
        smallest: the smallest anchor, in pixels; it decides which map a box is read from (Lin et al. 2017, eq. 1).
        size: places along each side of the result.
        pooling: mean of four points in each cell, RoIAlign (He et al. 2017); or max over the places of the map in it,
            RoI pooling (Girshick 2015), where cells consist of whole positions, and positions outside the map are 0.
    """

    def __init__(
        self, maps: Sequence[FeatureAxis], smallest: float, size: int, pooling: Literal["mean", "max"] = "mean"
    ) -> None:
        super().__init__()
        self.maps, self.smallest, self.size, self.pooling = maps, smallest, size, pooling

    def forward(self, maps: dict[str, Tensor], boxes: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """Return (n, C, size, size), float32, for all boxes of all images; ``boxes`` holds each image's, (., 4)."""
        numbers = torch.cat([of_image.new_full((len(of_image), 1), number) for number, of_image in enumerate(boxes)])
        rois = torch.cat((numbers, torch.cat(boxes)), dim=1)
        chosen = self.level(rois[:, 1:])
        pooled: Tensor | None = None
        for number, (grid, values) in enumerate(zip(self.maps, maps.values(), strict=True)):
            if len(self.maps) == 1:
                return self._read(grid, values, rois)
            rows = torch.where(chosen == number)[0]
            read = self._read(grid, values, rois[rows])
            empty = read.new_zeros((len(rois), *read.shape[1:])) if pooled is None else pooled
            pooled = empty.index_put((rows,), read)
        assert pooled is not None
        return pooled

    def level(self, boxes: Tensor) -> Tensor:
        """Return the index of the map that each box is read from, int64 (n,)."""
        from torchvision.ops import box_area

        side = box_area(boxes).clamp(min=1e-6).sqrt()
        return (2 + torch.log2(side / (_CANONICAL * self.smallest)) + 1e-6).floor().clamp(0, len(self.maps) - 1).long()

    def _read(self, grid: FeatureAxis, values: Tensor, rois: Tensor) -> Tensor:
        from torchvision.ops import roi_align, roi_pool

        if self.pooling == "max":
            # From the position nearest to the first pixel to the one nearest to the last pixel.
            ends = (rois[:, 1:] - rois.new_tensor([0, 0, 1, 1]) - grid.first) / grid.stride
            with torch.autocast(values.device.type, enabled=False):
                pooled: Tensor = roi_pool(values.float(), torch.cat((rois[:, :1], ends), dim=1), self.size, 1.0)
            return pooled
        # RoIAlign assumes that positions are in the middle of cells of stride pixels.
        shift = (grid.stride - 1) / 2 - grid.first
        at = (rois[:, 1:] + shift) / grid.stride
        with torch.autocast(values.device.type, enabled=False):
            if values.device.type == "cpu":
                return read_boxes(values.float(), rois[:, 0].long(), at, self.size)
            scaled = torch.cat((rois[:, :1], at), dim=1)
            read: Tensor = roi_align(values.float(), scaled, self.size, 1.0, sampling_ratio=_POINTS, aligned=True)
        return read


def read_boxes(values: Tensor, images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Compute torchvision's ``roi_align``, aligned, as products of matrices: a tenth of the time for a CPU's gradient.

    The result is the same if the box reaches less than one position beyond the map.

    Args:
        values: (B, C, h, w).
        images: (n,), int64, ascending: the image of each box.
        boxes: (n, 4), in cells: the first place is the middle of the first.
        size: places along each side of the result.

    Returns:
        (n, C, size, size).
    """
    channels, height, width = values.shape[1:]
    counts = torch.bincount(images, minlength=len(values)).tolist()
    across, down = (
        _means(boxes[:, axis], boxes[:, axis + 2], places, size).split(counts)
        for axis, places in ((0, width), (1, height))
    )
    pooled = []
    for maps, count, x, y in zip(values, counts, across, down, strict=True):
        rows = x.reshape(-1, width) @ maps.permute(2, 1, 0).reshape(width, -1)  # one product for all boxes of an image
        rows = rows.view(count, size, height, channels).transpose(1, 2).reshape(count, height, size * channels)
        pooled.append((y @ rows).view(count, size, size, channels).permute(0, 3, 1, 2))
    return torch.cat(pooled)


def _means(first: Tensor, last: Tensor, places: int, size: int) -> Tensor:
    """Return (n, size, places): each place's weight in the mean over the points of each of ``size`` parts of a span."""
    points = size * _POINTS
    steps = (torch.arange(points, dtype=torch.float32, device=first.device) + 0.5) / points
    at = (first[:, None] + (last - first)[:, None] * steps - 0.5).clamp(0, places - 1)
    weights = (1 - (at[..., None] - torch.arange(places, device=at.device)).abs()).clamp(min=0)
    return weights.view(len(first), size, _POINTS, places).mean(2)


class LastStages(nn.Sequential):
    """The last modules of a backbone, one after the other: ResNet's layer4 (C4), AlexNet's fc6 and fc7.

    Their output is averaged over all places.

    Args:
        modules: in the order in which they run.
        still: names, within this module, of modules that stay in evaluation mode.
    """

    def __init__(self, modules: Sequence[nn.Module], still: Sequence[str]) -> None:
        super().__init__(*modules)
        self.still = tuple(still)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (n, C, h, w) to (n, D)."""
        maps: Tensor = super().forward(pooled)  # type: ignore[no-untyped-call]
        return maps.mean((2, 3))

    def train(self, mode: bool = True) -> "LastStages":
        """Set the mode; what is frozen stays in evaluation mode."""
        super().train(mode and any(weight.requires_grad for weight in self.parameters()))
        for name in self.still:
            self.get_submodule(name).training = False
        return self


def start_of(features: FeatureNetwork, neck: Sequence[Stage], after: str) -> Stage:
    """Return the stage whose features of regions go into the last stages.

    Args:
        features: the backbone.
        neck: the one stage that regions are read from.
        after: the name of the stage; "" is the neck's.

    Raises:
        UserError: no stage comes after it, the neck comes after it or has another number of channels.
    """
    names = [stage.name for stage in features.stages]
    if len(neck) > 1 or neck[0].name == names[-1]:
        chosen, choices = "+".join(stage.name for stage in neck), ", ".join(names[:-1]) or "none here"
        raise UserError(f"head.neck is {chosen}: box stage takes one stage that is not the last: {choices}")
    start = stage_of(features, after or neck[0].name)
    if not names.index(neck[0].name) <= names.index(start.name) < len(names) - 1:
        raise UserError(
            f"head.box_after is {after}: it must be the neck, {neck[0].name}, or a later stage before {names[-1]}"
        )
    if start.channels != neck[0].channels:
        raise UserError(
            f"head.box_after is {start.name}, of {start.channels} channels: the layers after it cannot process the "
            f"{neck[0].channels} of {neck[0].name}"
        )
    return start


def take_last_stages(features: FeatureNetwork, after: str) -> LastStages:
    """Take the modules that compute the last stage from the stage ``after`` out of ``features``.

    Then the outputs of ``features`` for the stages behind ``after`` have no meaning, and cost nothing.

    Raises:
        UserError: no chain of modules computes it, or not from maps of (B, C, H, W).
    """
    assert isinstance(features, nn.Module)
    ran: dict[int, tuple[nn.Module, Tensor, Tensor]] = {}
    times: Counter[nn.Module] = Counter()

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        times[module] += 1
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
            return output
        output = output.clone()  # a separate node, also if a module returns its input
        ran[id(output)] = (module, inputs[0], output)
        return output

    hooks = [module.register_forward_hook(note) for module in features.modules()]
    maps = probe_maps(features, probe_side(features))
    for hook in hooks:
        hook.remove()
    last = features.stages[-1].name
    at, chain = maps.get(last), list[nn.Module]()
    while at is not None and at is not maps[after]:
        module, at, _ = ran.get(id(at), (None, None, None))
        if module is not None and times[module] == 1:
            chain.insert(0, module)
        else:
            at = None
    if at is None:
        raise UserError(
            f"head.box is stage: no chain of the backbone's modules computes {last} from {after}; take layers"
        )
    still: list[str] = []
    for number, module in enumerate(chain):
        path = next(path for path, known in features.named_modules() if known is module)
        if isinstance(features, Adapted):
            still += [f"{number}.{name}".rstrip(".") for name in features.release(path)]
        features.set_submodule(path, nn.Identity())
    return LastStages(chain, still)
