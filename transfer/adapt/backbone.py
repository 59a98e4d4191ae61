"""A network prepared for fine-tuning: trainable, except for what is frozen."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretext.backbones.contract import FromRgb, Stage
from pretext.errors import UserError
from transfer.adapt.bn_fold import absorb
from transfer.adapt.color_input import add_color
from transfer.adapt.graph import Trace, ancestors, leaves, trace
from transfer.adapt.rescale import rescale
from transfer.networks import Network


class FrozenSplit(NamedTuple):
    """The frozen part of a network."""

    weights: list[str]
    """Names of the parameters that are not trained."""
    modules: list[str]
    """Names of the modules that stay in evaluation mode: their statistics stay, nothing is dropped."""


def split(network: nn.Module, trace: Trace, freeze_to: str, used: Collection[str]) -> FrozenSplit:
    """Find the part to freeze so that the features of a stage do not change, to the bit, and all unused weights.

    Args:
        network: the network.
        trace: its forward pass.
        freeze_to: the stage; "" for none.
        used: the stages that the task uses.
    """
    fixed = ancestors([trace.stages[freeze_to]]) if freeze_to else set()
    frozen, needed = leaves(fixed), leaves(ancestors([trace.stages[stage] for stage in used]))
    return FrozenSplit(
        [name for name, weight in network.named_parameters() if weight in frozen or weight not in needed],
        # A module that returns several tensors may compute some of them later than others.
        list(dict.fromkeys(call.name for call in trace.calls if call.outputs and fixed.issuperset(call.outputs))),
    )


BatchNorm = Literal["train", "frozen", "absorbed"]


@dataclass
class AdaptSettings:
    """The settings of what is trained, and how a network is prepared for that.

    Args:
        freeze_to: the network is frozen up to and including this stage, batch-norm statistics included. If empty, all
            is trained; if it is the last stage that the task uses, only the head is trained.
        batch_norm: train uses and updates statistics of the batch; frozen keeps those of pretraining, while scale and
            shift are trained (DeepCluster's fine-tuning); absorbed folds it into the convolutions before it (as the
            paper did).
        color: let a network for lightness see ab too, through filters in its first layer that start at zero. A
            network that sees color already stays as it is.
    """

    freeze_to: str = ""
    batch_norm: BatchNorm = "train"
    color: bool = False


class Adapted(nn.Module):
    """A trainable backbone: sRGB in, features of every stage out.

    Args:
        features: the network; frozen weights do not require gradients.
        still: names of its modules that stay in evaluation mode.
        notes: what a user should know about the preparation.
    """

    def __init__(self, features: nn.Module, still: Sequence[str], notes: Sequence[str] = ()) -> None:
        super().__init__()
        self.features = features
        self.stages: tuple[Stage, ...] = features.stages  # type: ignore[assignment]
        self.still, self.notes = tuple(still), tuple(notes)
        self.train()

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        """Map (B, 3, H, W), uint8 in [0, 255] or float in [0, 1], to stage name -> (B, channels, h, w)."""
        features: dict[str, Tensor] = self.features(rgb)
        return features

    def train(self, mode: bool = True) -> "Adapted":
        """Set the mode; frozen modules stay in evaluation mode."""
        super().train(mode)
        for name in self.still:  # by name: synchronizing batch norm replaces modules
            self.features.get_submodule(name).training = False
        return self

    def release(self, path: str) -> list[str]:
        """Remove the module at a path; return the names, within it, of modules to keep in evaluation mode."""
        inside = f"{path.removeprefix('features.')}."
        taken = [name for name in self.still if f"{name}.".startswith(inside)]
        self.still = tuple(name for name in self.still if name not in taken)
        return [f"{name}."[len(inside) :].rstrip(".") for name in taken]


def example_of(network: Network, side: int) -> Tensor:
    """Return an image that is not constant, (1, C, side, side), as the network reads it: C is 3 for sRGB."""
    scale = network.scale
    if scale is None:
        return torch.linspace(0, 1, 3 * side * side).view(1, 3, side, side)
    count = network.channels
    shares = torch.linspace(0, 1, count * side * side).view(1, count, side, side)
    low, high = (float(end.nan_to_num(at).min()) for at, end in ((0, scale.low), (1, scale.high)))
    return low + (high - low) * shares


def adapt(
    network: Network,
    settings: AdaptSettings,
    images: Tensor | None = None,
    rescaled: bool = False,
    used: Sequence[str] = (),
) -> Adapted:
    """Return a copy of a network, prepared for fine-tuning.

    Batch norms that are frozen or absorbed, by ``batch_norm`` or by ``freeze_to``, keep their statistics: a network
    without statistics (``network.calibrated``) needs them first.

    Args:
        network: the network; it is not changed.
        settings: how it is prepared.
        images: (N, 3, H, W), uint8, sRGB, of a size that the network takes, to rescale it with; None if weights are
            loaded into it afterwards.
        rescaled: rescale its weights, see ``transfer.adapt.rescale``. Its batch norm is then always absorbed, as in
            the publication: it would undo the rescaling.
        used: names of the stages that the task uses; all by default. Weights that they do not depend on are frozen.

    Returns:
        The copy, on the network's device, in training mode. Its structure and the names of its state do not depend on
        the images.

    Raises:
        UserError: the network has no such stage, or cannot be prepared so.
    """
    features = copy.deepcopy(network.module).requires_grad_(True)
    side, device = network.view_size, next(features.parameters()).device
    # Any image works except a constant one, which normalization would almost erase.
    example = example_of(network, side).to(device)
    notes: list[str] = []
    names = [stage.name for stage in network.stages]
    for stage in (*filter(None, [settings.freeze_to]), *used):
        if stage not in names:
            raise UserError(f"{network.name}: it has no stage {stage!r}: take one of {', '.join(names)}")
    stages = [name for name in names if name in used or not used]
    try:
        if rescaled or settings.batch_norm == "absorbed":
            separate = absorb(features, example)
            if separate:
                notes.append(
                    f"{len(separate)} batch norms, such as {separate[0]}, became separate layers: "
                    "no layer could absorb them"
                )
        if rescaled and images is not None:
            before, after = rescale(features, images.to(device), stages[-1], network.kind == "random")
            notes.append(f"ratios of gradient to weights spanned a factor of {before:.3g}, rescaled {after:.3g}")
        if settings.color and isinstance(features, FromRgb) and features.backbone.inputs == "lightness":
            features = add_color(features, trace(features, example))
            if settings.freeze_to:
                notes.append(f"frozen to {settings.freeze_to}, it cannot learn to see color")
        frozen = split(features, trace(features, example), settings.freeze_to, stages)
    except UserError as error:
        raise UserError(f"{network.name}: {error}") from error
    for name in frozen.weights:
        features.get_parameter(name).requires_grad_(False)
    still = list(frozen.modules)
    if settings.batch_norm == "frozen":
        still += [name for name, module in features.named_modules() if isinstance(module, _BatchNorm)]
    return Adapted(features, still, notes)
