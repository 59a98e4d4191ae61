"""Backbones from timm: any model by its name, with one input channel, or with three as published."""

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones.contract import Backbone, Stage, center
from pretext.backbones.timm_weights import fetch_weights, first_line, load_file, load_weights
from pretext.color import lightness_to_gray
from pretext.errors import UserError

PUBLISHED = "published"
"""The value of ``weights`` for those that timm publishes for the model."""

# Arguments that let timm's models of a fixed input size take other sizes; a model knows one of these entries or none.
ANY_SIZE: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True, "strict_img_size": False},  # older Swins silently ignore the first
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)


_SIZE_STEP = 512  # pixels between the two sizes whose features are compared
_MAX_SIZE = 1024  # pixels
_STRIDES: dict[str, tuple[int, ...]] = {}  # measured strides, by model and arguments
_ADVICE: dict[str, str | None] = {}  # about a refused shape, by model and arguments: it takes seconds to find


class TimmBackbone(Backbone):
    """A timm model as a backbone: its feature stages, always (B, C, H, W), from L alone.

    The stages are those of timm's ``features_only``. Their names are timm's module names with underscores for dots
    (``layer4``, ``stages_3``, ``blocks_11``), so that submodules can have these names too. For a plain vision
    transformer, they are the last three blocks unless ``out_indices`` says otherwise.

    L / 100 is normalized by the mean and standard deviation of timm's configuration of the model, averaged over R, G
    and B. So the model's input for a gray image is almost the same as in RGB. The state dict contains both numbers.
    With ``gray``, the input is exactly the same.

    Args:
        name: a timm model, with or without the tag of its weights: "resnet50", "resnet50.a1_in1k".
        weights: a local .safetensors or .pth file with weights of the model, in any layout that timm reads; it cannot
            run code. ``FILE#PART`` selects one of several networks in it. Or "published": timm's weights, from the hub
            or its local cache. A first layer for RGB is summed over its input channels, unless ``gray``. Weights that
            only the whole model has, such as the classifier's, are left out.
        last_stride: stride of the last stage's first block, instead of the model's 2. 1 keeps the resolution of the
            stage before, as in Goyal et al. 2019 for ResNet-50 (VISSL: LAYER4_STRIDE 1). It changes no weight and,
            unlike ``output_stride``, does not dilate. For ResNets and similar models.
        gray: convert L to the sRGB gray of this L, and use it as R, G and B, each normalized by its own mean and
            standard deviation. Published weights then get the same input as for a gray image, up to float rounding,
            also at the border. The first layer keeps its three channels.
        arguments: passed to ``timm.create_model``: ``out_indices``, ``output_stride`` (also for a VGG: its last pools
            then keep the resolution, and the layers after them are dilated), ``drop_path_rate``, ``img_size`` for a
            model that takes only one size.

    Raises:
        UserError: the name is unknown, the model has no feature stages, it does not take an argument, the file does
            not hold its weights, or the last stage has no stride to remove; in ``forward``: the model cannot take
            the image size.
    """

    channels = 1
    lightness_mean: Tensor
    lightness_std: Tensor
    rgb_mean: Tensor
    rgb_std: Tensor

    def __init__(
        self,
        name: str,
        /,
        weights: str | Path | None = None,
        last_stride: int | None = None,
        gray: bool = False,
        **arguments: Any,
    ) -> None:
        import timm  # not at the top: the import takes seconds

        super().__init__()
        self.gray = gray
        if gray and self.inputs != "lightness":
            raise UserError(
                f"timm model {name}: gray is for a backbone that reads lightness, not {self.inputs}; leave it out"
            )
        if gray:
            self.channels = 3
        if not is_timm_model(name):
            raise unknown_backbone(name, timm_models())
        try:
            published = timm.get_pretrained_cfg(name)
        except RuntimeError as error:
            tags = ", ".join(timm.list_pretrained(name.partition(".")[0] + ".*")) or "none"
            raise UserError(f"timm model {name}: no such tag of weights (there are: {tags})") from error
        self.name = name
        vgg_stride = arguments.pop("output_stride", 32) if name.startswith("vgg") else 32
        if vgg_stride not in (1, 2, 4, 8, 16, 32):
            raise UserError(f"timm model {name}: output_stride is {vgg_stride!r}: it must be 1, 2, 4, 8, 16 or 32")
        if last_stride not in (None, 1, 2):
            raise UserError(f"timm model {name}: last_stride is {last_stride!r}: it must be 1 or 2")
        self._arguments, self._vgg_stride, self._last_stride = arguments, vgg_stride, last_stride
        self._fixed_size: bool = published.fixed_input_size
        self.net, any_size = _create(name, self.channels, arguments, self._fixed_size)
        self._full_arguments = {key: value for key, value in (any_size | arguments).items() if key != "out_indices"}
        if str(weights) == PUBLISHED:
            instead = "set backbone.weights to a local file, or leave it out for random weights"
            stored = fetch_weights(name, f"backbone.weights published, {name}", instead)
            load_weights(self.net, name, stored, self._full_arguments, f"timm model {name}")
        elif weights is not None:
            load_file(self.net, name, weights, self._full_arguments)

        info: Any = self.net.feature_info
        if not info.channels():
            raise UserError(f"timm model {name}: out_indices selects no stage; leave it out, or name some stages")
        names = [module.replace(".", "_") for module in info.module_name()]
        if len(set(names)) < len(names):  # parallel branches, as in CrossViT
            names = [f"{stage}_{position}" for position, stage in enumerate(names)]
        self.channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")
        size = arguments.get("img_size", published.input_size[-2:])
        sides = (size, size) if isinstance(size, int) else tuple(size)
        self.own_size = int(sides[0])
        self.only_size = sides if self._fixed_size and not any_size else None
        strides = self._measure_strides(None)
        if vgg_stride < 32:
            keep_stride(self.net, vgg_stride)
        if last_stride == 1:
            is_removed = _remove_last_stride(self.net)
            new_strides = (*strides[:-1], strides[-1] // 2)
            if not is_removed or self._measure_strides(last_stride) != new_strides:
                raise UserError(
                    f"timm model {name}: no stride can be removed from its last stage, {names[-1]}: leave out "
                    "last_stride"
                )
            strides = new_strides
        self.stages = tuple(map(Stage, names, info.channels(), strides))
        # Patches and windows must tile the image.
        tiling = [stride for stride in strides if self.own_size % stride == 0] if self._fixed_size else []
        self._multiple: int = max(tiling, default=1)
        self._register_normalization(published.mean, published.std)

    def _make_meta_net(self, last_stride: int | None) -> nn.Module:
        """Return the net on the meta device, to test sizes; this draws no random numbers."""
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            net, _ = _create(self.name, self.channels, self._arguments, self._fixed_size)
        if self._vgg_stride < 32:
            keep_stride(net, self._vgg_stride)
        if last_stride == 1:
            _remove_last_stride(net)
        return net

    def _architecture(self, last_stride: int | None) -> str:
        return f"{self.name} {self.channels} {sorted(self._arguments.items())} {self._vgg_stride} {last_stride}"

    def _measure_strides(self, last_stride: int | None) -> tuple[int, ...]:
        """Return the measured strides of the stages, cached; () if ``last_stride`` 1 makes the net fail."""
        key = self._architecture(last_stride)
        if key not in _STRIDES:
            net, declared = self._make_meta_net(last_stride).eval(), self.net.feature_info.reduction()  # type: ignore[operator, union-attr]
            try:
                _STRIDES[key] = measure_strides(net, self.channels, declared, self.own_size, self.channels_last)
            except Exception as error:  # timm's models can raise anything
                if last_stride == 1:  # the sizes of its branches differ now
                    return ()
                raise UserError(
                    f"timm model {self.name} cannot be a backbone with {self.channels} input channel"
                    f"{'s' * (self.channels > 1)}: it fails at its own size, {self.own_size} pixels "
                    f"({first_line(error)})"
                ) from error
        return _STRIDES[key]

    def _register_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        if self.gray:
            self.register_buffer("rgb_mean", torch.tensor(mean).view(3, 1, 1, 1))
            self.register_buffer("rgb_std", torch.tensor(std).view(3, 1, 1, 1))
            return
        self.register_buffer("lightness_mean", torch.tensor(100 * sum(mean) / len(mean)))
        self.register_buffer("lightness_std", torch.tensor(100 * sum(std) / len(std)))

    def normalize(self, x: Tensor) -> Tensor:
        """Return what the model of timm gets for an input, (B, C, H, W)."""
        if self.gray:
            gray = lightness_to_gray(x)
            return ((gray.unsqueeze(1) - self.rgb_mean) / self.rgb_std).flatten(1, 2)
        return (x - self.lightness_mean) / self.lightness_std

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the features of every stage; see ``Backbone.forward``."""
        normalized = self.normalize(x)
        try:
            maps = self.net(normalized)
        except Exception as error:  # timm's models can raise anything
            shape = (len(normalized), self.channels, *normalized.shape[-2:])
            key = f"{self._architecture(self._last_stride)} {shape} {self.net.training}"
            if key not in _ADVICE:
                _ADVICE[key] = self._advise(shape)
            if (advice := _ADVICE[key]) is None:
                raise
            raise UserError(
                f"timm model {self.name} cannot take {shape[2]} x {shape[3]} pixels ({first_line(error)}): {advice}"
            ) from error
        if self.channels_last:
            maps = [features.permute(0, 3, 1, 2) for features in maps]
        return {stage.name: features for stage, features in zip(self.stages, maps, strict=True)}

    def _advise(self, shape: tuple[int, int, int, int]) -> str | None:
        """Return what to do about a refused (B, C, H, W); None if its size is not at fault, but memory, say."""
        net = self._make_meta_net(self._last_stride).train(self.net.training)
        if find_error(net, shape) is None:
            return None
        side = max(shape[2:])
        nearest = self.fit_size(side)
        if self.only_size is not None:
            return f"give it {self.only_size[0]} x {self.only_size[1]}, or set img_size if the model has it"
        if nearest != side and find_error(net, (2, self.channels, nearest, nearest)) is None:
            return f"give it {nearest} x {nearest}"
        least = find_least_size(net, self.channels, side)
        return f"give it at least {least} x {least}" if least else "use another model"

    def fit_size(self, size: int) -> int:
        """Return the model's only size, or a multiple of its patches or windows; see ``Backbone.fit_size``."""
        if self.only_size is not None:
            return int(self.only_size[0])
        return max(1, round(size / self._multiple)) * self._multiple


class TimmColor(TimmBackbone):
    """A timm model for sRGB images.

    R, G and B are normalized as timm's configuration of the model says.

    Args:
        name: as for ``TimmBackbone``.
        weights: as for ``TimmBackbone``; a first layer for RGB is not changed.
        arguments: as for ``TimmBackbone``.

    Raises:
        UserError: see ``TimmBackbone``.
    """

    channels = 3
    inputs = "rgb"

    def _register_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.register_buffer("rgb_mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("rgb_std", torch.tensor(std).view(3, 1, 1))

    def normalize(self, x: Tensor) -> Tensor:
        """See ``TimmBackbone.normalize``; sRGB may also be uint8 in [0, 255]."""
        return (self.to_input(x) - self.rgb_mean) / self.rgb_std

    def load_published(self) -> None:
        """Load the model's published weights, from the hub or its local cache.

        Raises:
            UserError: no weights are published, they cannot be fetched, or they do not fit.
        """
        instead = f"use a local file (timm:{self.name}:FILE) or random weights (timm:{self.name}:random)"
        stored = fetch_weights(self.name, f"timm:{self.name}", instead)
        load_weights(self.net, self.name, stored, self._full_arguments, f"timm:{self.name}")


class TimmAb(TimmBackbone):
    """A timm model for a and b of CIE Lab; arguments as for ``TimmBackbone``."""

    channels = 2
    inputs = "ab"

    def normalize(self, x: Tensor) -> Tensor:
        """See ``TimmBackbone.normalize``."""
        return center(x, "ab")


class TimmChannels(TimmBackbone):
    """A timm model for named channels.

    Args:
        name: as for ``TimmBackbone``.
        inputs: the channels.
        arguments: as for ``TimmBackbone``; of weights for RGB the first layer is repeated, as by timm.
    """

    def __init__(self, name: str, /, inputs: tuple[str, ...], **arguments: Any) -> None:
        self.channels, self.inputs = len(inputs), inputs
        super().__init__(name, **arguments)
        self.set_inputs(inputs)

    def _register_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Register nothing: a photograph's mean is not that of other channels."""

    def normalize(self, x: Tensor) -> Tensor:
        """See ``TimmBackbone.normalize``."""
        return center(x, self.inputs)


def is_timm_model(name: str) -> bool:
    """Return whether timm has a model of that name; it may have a tag: resnet50.a1_in1k."""
    if "/" in name:  # a path
        return False
    import timm  # not at the top: the import takes seconds

    return bool(timm.is_model(name.partition(".")[0]))


def timm_models() -> list[str]:
    """Return the names of all models of timm."""
    import timm

    return list(timm.list_models())


def unknown_backbone(name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that no backbone has, with the most similar names in ``known``."""
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(nearest)}?" if nearest else "timm.list_models() lists timm's names"
    return UserError(f"no backbone is named {name!r}: {hint} (for a backbone of your own, set PRETINT_PLUGINS=FILE.py)")


def _create(name: str, channels: int, arguments: dict[str, Any], fixed_size: bool) -> tuple[nn.Module, dict[str, bool]]:
    """Return the model, and the entry of ``ANY_SIZE`` that it was made with; {} if it takes images of one size only."""
    import timm

    reason = ""
    for any_size in ANY_SIZE if fixed_size else ({},):
        settings = {**any_size, **arguments}
        try:
            net = timm.create_model(name, pretrained=False, in_chans=channels, features_only=True, **settings)
        except Exception as error:  # timm's models can raise anything
            reason = first_line(error)
        else:
            return net, any_size
    with_arguments = f" with {', '.join(f'{key}={value}' for key, value in arguments.items())}" if arguments else ""
    raise UserError(f"timm model {name} cannot be a backbone{with_arguments}: {reason}")


def _remove_last_stride(net: nn.Module) -> bool:
    """Remove the strides of 2 from the last stage; return whether it had any and all could be removed."""
    info: Any = net.feature_info
    module, parts = info.module_name()[-1], dict(net.named_modules())
    last = parts.get(module, parts.get(module.replace(".", "_")))
    halving = [
        (path, part)
        for path, part in (last.named_modules() if last is not None else ())
        if getattr(part, "stride", 1) in (2, (2, 2)) and not list(part.children())
    ]
    for path, part in halving:
        if isinstance(part, nn.Conv2d) and part.kernel_size == tuple(2 * int(side) + 1 for side in part.padding):
            part.stride = (1, 1)
        elif isinstance(part, nn.AvgPool2d) and path and part.kernel_size == 2:  # timm uses no pool at stride 1
            assert last is not None
            last.set_submodule(path, nn.Identity())
        else:
            return False
    return bool(halving)


def find_error(net: nn.Module, shape: Sequence[int]) -> Exception | None:
    """Return the error that a network raises for inputs of this shape, in its current mode; None if it takes them."""
    try:
        with torch.no_grad():
            net(torch.empty(tuple(shape), device="meta"))
    except Exception as error:  # networks can raise anything
        return error
    return None


def find_least_size(net: nn.Module, channels: int, size: int) -> int:
    """Return the smallest side above ``size`` that a network takes, in pixels; 0 if it takes none up to 1,024."""
    refused, accepted = size, 2 * size
    while find_error(net, (2, channels, accepted, accepted)):
        refused, accepted = accepted, 2 * accepted
        if accepted > _MAX_SIZE:
            return 0
    while accepted - refused > 1:
        middle = (accepted + refused) // 2
        if find_error(net, (2, channels, middle, middle)):
            refused = middle
        else:
            accepted = middle
    return accepted


def measure_strides(
    net: nn.Module, channels: int, declared: Sequence[int], size: int, channels_last: bool
) -> tuple[int, ...]:
    """Return the stride of every feature map of a network, in input pixels, measured by forward passes.

    Two sizes are compared, so that padding at the border has no influence. For a network that takes only one size, the
    declared stride is returned if it agrees with the map's side up to rounding, otherwise the ratio of the sides.

    Args:
        net: a network in eval mode that returns a list of maps.
        channels: the number of its input channels.
        declared: the strides of the maps according to timm.
        size: an image side that the network takes, in pixels.
        channels_last: whether maps are (B, h, w, C).

    Raises:
        Exception: the network's own error, if it does not take this size.
    """
    sides = _measure_sides(net, channels, size, channels_last)
    for larger in (size + _SIZE_STEP, 2 * size):
        if find_error(net, (1, channels, larger, larger)) is None:
            larger_sides = _measure_sides(net, channels, larger, channels_last)
            growth = [after - before for before, after in zip(sides, larger_sides, strict=True)]
            if all(pixels > 0 for pixels in growth):
                return tuple(round((larger - size) / pixels) for pixels in growth)
    return tuple(
        stride if abs(size / stride - side) < 1 else round(size / side)
        for stride, side in zip(declared, sides, strict=True)
    )


@torch.no_grad()
def _measure_sides(net: nn.Module, channels: int, size: int, channels_last: bool) -> list[int]:
    maps: list[Tensor] = net(torch.empty(1, channels, size, size, device="meta"))
    return [features.shape[-2 if channels_last else -1] for features in maps]


class DensePool(nn.Module):
    """A 2 x 2 max pooling of stride 1: the maximum of each value and its neighbors below and to the right.

    Every ``2 * dilation``-th position has the value that pooling of stride 2 would give. The padding is -infinity.

    Args:
        dilation: distance to these neighbors, in positions.
    """

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """Return the pooled map, of the same shape as ``x``, (B, C, H, W)."""
        padded = F.pad(x, (0, self.dilation, 0, self.dilation), value=-torch.inf)
        return F.max_pool2d(padded, 2, stride=1, dilation=self.dilation)


def keep_stride(net: nn.Module, stride: int) -> None:
    """Limit a timm VGG, in place, to a stride (1, 2, 4, 8 or 16): replace later pools and dilate later convolutions."""
    reached, dilation = 1, 1
    for name, module in list(net.named_modules()):
        if isinstance(module, nn.MaxPool2d):
            assert module.kernel_size == module.stride == 2
            if reached < stride:
                reached *= 2
                continue
            net.set_submodule(name, DensePool(dilation))
            dilation *= 2
        elif isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
            module.dilation = (dilation, dilation)
            module.padding = tuple(dilation * (side // 2) for side in module.kernel_size)
