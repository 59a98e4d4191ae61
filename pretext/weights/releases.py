"""The published colorization weights that Pretint knows: their names, their scalings, the recipe they fit.

Facts: ``colorizers/eccv16.py``, ``siggraph17.py`` and ``base_color.py`` of richzhang/colorization;
``alexnet_colorization.py``, ``resnext.py``, ``img_pil_to_lab_tensor.py`` and the converters in
``extra_scripts`` of facebookresearch/vissl, whose issue 518 lists the keys of its ResNet-50 file.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from pretext.backbones.contract import BackboneSettings
from pretext.data.batches import CropSettings
from pretext.errors import UserError
from pretext.gamut import TEMPERATURE, bin_centers
from pretext.methods.objectives import AB_SCALE, ObjectiveSettings
from pretext.pretrained import BACKBONE
from pretext.recipe import PretrainSettings
from pretext.weights.state_dict import Weights

_VISSL_ALEXNET = {"conv1": 0, "conv2": 2, "conv3": 4, "conv4": 5, "conv5": 6}
_SAME_BIN = 0.5  # Lab units: the grid's step is 10


class Release(NamedTuple):
    """A published network, as a recipe that builds it and the names of its file."""

    title: str
    settings: PretrainSettings
    published: Callable[[str], str]
    """The file's name of a weight of the backbone."""
    head: str = ""
    """What the names of the color head begin with in the file; empty: the file has none."""
    given: Weights = {}  # noqa: RUF012 - a NamedTuple's default; never changed
    """Values of the backbone that are facts of the release and not in the file."""
    aside: dict[str, tuple[int, ...]] = {}  # noqa: RUF012
    """Shapes of the weights in the file that no part of the colorizer takes; they are kept beside it."""
    finish: Callable[[Weights, Weights], list[str]] = lambda model, aside: []
    """Changes the weights to our scalings, in place, and says what it did."""


def _recipe(
    name: str, size: int, stride: int, objective: ObjectiveSettings | None = None, **arguments: object
) -> PretrainSettings:
    """A recipe whose images are seen at ``size``. Its other settings say nothing of how the weights were trained."""
    return PretrainSettings(
        crop=CropSettings(size=size, area=(1.0, 1.0)),
        backbone=BackboneSettings(name, dict(arguments)),
        objective=objective or ObjectiveSettings("plain", stride=stride),
    )


def _finish_eccv16(model: Weights, aside: Weights) -> list[str]:
    """Put the head's bins into our order, and take the temperature out of its weights.

    The file's last layer averages the bins under the softmax itself: its temperature, 1 / 2.606 in the
    Caffe net, can only be in the weights. Scaled by ours, 0.38, they give the release's colors where
    Pretint decodes at its default, and a plain softmax is the distribution that was trained.
    """
    theirs = AB_SCALE * aside["model_out.weight"].flatten(1).T.double().numpy()
    ours = bin_centers()
    distances = np.abs(theirs[:, None] - ours[None]).max(2)
    order, deviation = distances.argmin(0), float(distances.min(0).max())
    if not deviation <= _SAME_BIN or len(set(order.tolist())) < len(ours):
        raise UserError(
            f"its color bins (model_out.weight) are not the {len(ours)} of the paper: off by {deviation:.1f}"
        )
    for name in ("head.weight", "head.bias"):
        model[name] = TEMPERATURE * model[name][torch.from_numpy(order)]
    moved = "in our order" if (order == np.arange(len(ours))).all() else "in another order, changed to ours"
    return [
        f"its color bins are ours to {deviation:.2g} Lab units, {moved}",
        f"its head is scaled by {TEMPERATURE}: decoded at that temperature, the default, it gives the release's ab",
    ]


RELEASES = (
    Release(
        "ECCV16 colorization (PyTorch release)",
        _recipe("vgg", size=256, stride=4),
        published=lambda name: name,
        head="model8.6",
        aside={"model_out.weight": (2, 313, 1, 1)},
        finish=_finish_eccv16,
    ),
    Release(
        "SIGGRAPH17 colorization (PyTorch release)",
        _recipe("siggraph17", 256, 1, ObjectiveSettings("regression", stride=1, bounded=True)),
        published=lambda name: name,
        head="model_out.0",
        aside={"model_class.0.weight": (529, 256, 1, 1), "model_class.0.bias": (529,)},
    ),
    Release(
        "VISSL AlexNet colorization",
        _recipe("alexnet", 227, 8, geometry="test", affine=True, fully_connected=False),
        published=lambda name: f"_feature_blocks.{_VISSL_ALEXNET[name[:5]]}{name[5:]}",
    ),
    Release(
        "VISSL ResNet-50 colorization",
        _recipe("resnet50", 224, 8, last_stride=1),
        published=lambda name: name.replace("net.", "_feature_blocks.", 1),
        given={f"{BACKBONE}lightness_mean": torch.tensor(50.0), f"{BACKBONE}lightness_std": torch.tensor(1.0)},
    ),
)
