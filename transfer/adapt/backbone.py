"""A network as it goes into fine-tuning: trainable, but for what is to stay as it is."""

import copy
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pretext.backbones.contract import Stage
from pretext.errors import UserError
from pretext.weights.inputs import FromRgb
from transfer.adapt.bn_fold import absorb
from transfer.adapt.color_input import add_color
from transfer.adapt.graph import Trace, ancestors, leaves, trace
from transfer.adapt.rescale import rescale
from transfer.networks import Network


class Split(NamedTuple):
    """What stays as it is while a network is trained."""

    weights: list[str]
    """Names of the parameters that are not trained."""
    modules: list[str]
    """Names of the modules that act as in evaluation: their statistics stay, nothing is dropped."""


def split(network: nn.Module, trace: Trace, freeze_to: str, used: Collection[str]) -> Split:
    """What must stay for the features of a stage to stay, to the bit; and what no used stage depends on.

    Args:
        network: what was traced.
        trace: its forward pass.
        freeze_to: the stage; "" for none.
        used: the stages that something is learned from.
    """
    kept = ancestors([trace.stages[freeze_to]]) if freeze_to else set()
    frozen, needed = leaves(kept), leaves(ancestors([trace.stages[stage] for stage in used]))
    return Split(
        [name for name, weight in network.named_parameters() if weight in frozen or weight not in needed],
        # One that gives several tensors may make some of them only later.
        list(dict.fromkeys(call.name for call in trace.calls if call.outputs and kept.issuperset(call.outputs))),
    )


BatchNorm = Literal["train", "frozen", "absorbed"]


@dataclass
class AdaptSettings:
    """What of a network is trained, and how it is made ready for that.

    Args:
        freeze_to: the stage up to which, inclusive, nothing is trained, batch-norm statistics included; all is trained
            if empty, nothing but the head if it is the last stage that the task uses.
        batch_norm: train uses and moves statistics of the batch; frozen keeps those of pretraining, while scale and
            shift are trained (DeepCluster's fine-tuning); absorbed makes it part of the convolutions before it (as the
            paper did).
        color: a network of lightness sees ab too, through filters in its first layer that start at zero. One that
            sees color already is left as it is.
    """

    freeze_to: str = ""
    batch_norm: BatchNorm = "train"
    color: bool = False


class Adapted(nn.Module):
    """sRGB in, features of every stage out, to be trained.

    Args:
        features: the network; what is not to be trained asks for no gradients.
        still: names of its modules that act as in evaluation whatever the mode.
        notes: what a user should know of how it was made.
    """

    def __init__(self, features: nn.Module, still: Sequence[str], notes: Sequence[str] = ()) -> None:
        super().__init__()
        self.features = features
        self.stages: tuple[Stage, ...] = features.stages  # type: ignore[assignment]
        self.still, self.notes = tuple(still), tuple(notes)
        self.train()

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W), uint8 in [0, 255] or float in [0, 1] -> stage name -> (B, channels, h, w)."""
        features: dict[str, Tensor] = self.features(rgb)
        return features

    def train(self, mode: bool = True) -> "Adapted":
        """As of any module, but that what is frozen stays in evaluation mode."""
        super().train(mode)
        for name in self.still:  # by name: synchronizing batch norm puts others in their place
            self.features.get_submodule(name).training = False
        return self

    def release(self, path: str) -> list[str]:
        """The names, within the module at a path, of those that are kept still: whoever takes it out keeps them so."""
        inside = f"{path.removeprefix('features.')}."
        taken = [name for name in self.still if f"{name}.".startswith(inside)]
        self.still = tuple(name for name in self.still if name not in taken)
        return [f"{name}."[len(inside) :].rstrip(".") for name in taken]


def adapt(
    network: Network,
    settings: AdaptSettings,
    images: Tensor | None = None,
    rescaled: bool = False,
    used: Sequence[str] = (),
) -> Adapted:
    """A copy of a network, made ready for fine-tuning.

    Batch norms that are frozen or absorbed, by ``batch_norm`` or by ``freeze_to``, keep the statistics that they have:
    a network that has none yet (``network.calibrated``) needs them first.

    Args:
        network: stays as it is.
        settings: what is done.
        images: (N, 3, H, W), uint8, sRGB, of a size that the network takes, to rescale it with; None where
            weights are loaded into it afterwards.
        rescaled: whether its weights are rescaled, see ``transfer.adapt.rescale``. Its batch norm is then absorbed
            whatever the settings say, as it was where this was published: it would undo the rescaling.
        used: names of the stages that the task uses; all by default. What none of them depends on is not trained.

    Returns:
        The copy, on the network's device, in training mode. Its structure and the names of its state do not depend on
        the images.

    Raises:
        UserError: the network has no such stage, or cannot be made ready so.
    """
    features = copy.deepcopy(network.module).requires_grad_(True)
    side, device = network.view_size, next(features.parameters()).device
    # Any image does, but for a constant one, of which little would be left after normalization.
    example = torch.linspace(0, 1, 3 * side * side, device=device).view(1, 3, side, side)
    notes: list[str] = []
    names = [stage.name for stage in network.stages]
    for stage in (*filter(None, [settings.freeze_to]), *used):
        if stage not in names:
            raise UserError(f"{network.name}: it has no stage {stage!r}: take one of {', '.join(names)}")
    taken = [name for name in names if name in used or not used]
    try:
        if rescaled or settings.batch_norm == "absorbed":
            kept = absorb(features, example)
            if kept:
                notes.append(f"{len(kept)} batch norms, such as {kept[0]}, became layers: none before is theirs alone")
        if rescaled and images is not None:
            before, after = rescale(features, images.to(device), taken[-1], network.kind == "random")
            notes.append(f"ratios of gradient to weights spanned a factor of {before:.3g}, rescaled {after:.3g}")
        if settings.color and isinstance(features, FromRgb):
            features = add_color(features, trace(features, example))
            if settings.freeze_to:
                notes.append(f"frozen to {settings.freeze_to}, it cannot learn to see color")
        found = split(features, trace(features, example), settings.freeze_to, taken)
    except UserError as error:
        raise UserError(f"{network.name}: {error}") from error
    for name in found.weights:
        features.get_parameter(name).requires_grad_(False)
    still = list(found.modules)
    if settings.batch_norm == "frozen":
        still += [name for name, module in features.named_modules() if isinstance(module, _BatchNorm)]
    return Adapted(features, still, notes)
