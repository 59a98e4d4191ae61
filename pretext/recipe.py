"""A recipe: every setting of a pretraining, and the network that follows from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from pretext.backbones import Backbone, build_backbone
from pretext.backbones.contract import BackboneSettings
from pretext.data.batches import CropSettings
from pretext.data.source import DataSettings
from pretext.engine.settings import MachineSettings, TrainingSettings
from pretext.errors import UserError
from pretext.methods.classifier import Classifier
from pretext.methods.colorizer import ClassBranch, Colorizer
from pretext.methods.hints import HintSettings, sample_hints
from pretext.methods.objectives import OBJECTIVES, ObjectiveSettings
from pretext.online import OnlineSettings


@dataclass
class PretrainSettings:
    """A pretraining. All but the groups machine and online belong to its identity.

    Args:
        data: where the images come from.
        crop: how an image becomes a training crop.
        backbone: the network that learns.
        objective: what it learns.
        hints: colors that it is given while it learns.
        training: how it is trained.
        machine: what may change between two calls on a run.
        online: a quick look at the features while they are learned; it too may change.
        seed: of the initial weights, the order of images and their augmentation.
    """

    data: DataSettings = field(default_factory=DataSettings)
    crop: CropSettings = field(default_factory=CropSettings)
    backbone: BackboneSettings = field(default_factory=BackboneSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    hints: HintSettings = field(default_factory=HintSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    machine: MachineSettings = field(default_factory=MachineSettings)
    online: OnlineSettings = field(default_factory=OnlineSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63:
            raise UserError(f"seed is {self.seed}: it must lie in [0, 2^63)")
        if self.objective.stride > self.crop.size:
            raise UserError(
                f"objective.stride is {self.objective.stride}: it must not exceed crop.size, {self.crop.size}"
            )
        if self.hints.sampled and self.objective.supervised:
            raise UserError("hints.sampled is for networks that color; objective.name is labels")
        if self.hints.sampled and self.objective.classes_weight:
            raise UserError("hints.sampled and objective.classes_weight: no backbone takes hints and names classes")

    @property
    def view_size(self) -> int:
        """The side at which a whole image shows things as large as the crops of training do on average.

        The paper's: crops of 176 from images of 256 are looked at, later, at 256.
        """
        return round(self.crop.size / math.sqrt(sum(self.crop.area) / 2))


def build_colorizer(
    settings: PretrainSettings, prior: Tensor, published: bool = False, classes: Sequence[str] = ()
) -> Colorizer:
    """The colorizer of a recipe at random initial weights, which depend on the recipe's seed alone.

    A recipe that learns labels has none: this one then has its backbone, and a head for two channels of color
    that nobody trained.

    Args:
        settings: the recipe.
        prior: (Q,), for the rebalancing weights, or a plugin's objective.
        published: start the backbone from the file ``settings.backbone.weights`` instead, if that is named.
        classes: give it the class branch that the settings may ask for, to name these; without, it has none.

    Raises:
        UserError: the backbone does not exist, does not take its arguments, its weights or hints, or has nothing to
            name classes from.
    """
    asked = settings.objective
    objective = OBJECTIVES["regression" if asked.supervised else asked.name](asked, prior)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        backbone = _backbone(settings, published)
        if settings.hints.sampled and not backbone.takes_hints:
            raise UserError(f"hints.sampled: backbone {settings.backbone.name} takes no hints; siggraph17 does")
        if asked.classes_weight and not backbone.vector_channels:
            raise UserError(
                f"objective.classes_weight: backbone {settings.backbone.name} knows nothing of whole images to name "
                "classes from; fusion does"
            )
        hinting = partial(sample_hints, seed=settings.seed, settings=settings.hints) if settings.hints.sampled else None
        colorizer = Colorizer(backbone, objective, asked.stride, hinting)
        if asked.classes_weight and classes:
            colorizer.class_branch = ClassBranch(backbone.vector_channels, len(classes), asked.classes_weight)
        return colorizer


def build_network(
    settings: PretrainSettings, prior: Tensor | None, classes: Sequence[str], published: bool = False
) -> Colorizer | Classifier:
    """What a recipe trains; the backbone's first weights are the same whatever the objective.

    Args:
        settings: the recipe.
        prior: (Q,), of a recipe that learns colors.
        classes: of one that learns labels, or these besides colors.
        published: see ``build_colorizer``.
    """
    if not settings.objective.supervised:
        assert prior is not None
        return build_colorizer(settings, prior, published, classes)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        return Classifier(_backbone(settings, published), len(classes))


def _backbone(settings: PretrainSettings, published: bool) -> Backbone:
    file = {"weights": settings.backbone.weights} if published and settings.backbone.weights else {}
    return build_backbone(settings.backbone.name, **settings.backbone.arguments, **file)
