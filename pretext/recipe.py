"""A recipe: every setting of a pretraining, and the network that follows from it."""

import difflib
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretext.backbones import Backbone, build_backbone
from pretext.data.batches import CropSettings
from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.run import find_checkpoint
from pretext.engine.settings import MachineSettings, TrainingSettings
from pretext.errors import UserError
from pretext.gamut import STEP, STEPS, TEMPERATURE, Gamut, bin_centres
from pretext.initialization import Init
from pretext.methods.classifier import Classifier
from pretext.methods.colorizer import ClassBranch, Colorizer, NoHead
from pretext.methods.hints import HintSettings, sample_hints
from pretext.methods.objectives import OBJECTIVES
from pretext.online import OnlineSettings
from pretext.settings import settings_from


@dataclass
class DataSettings:
    """Where the pictures come from.

    Args:
        source: required to start a run: a folder of pictures, or "bundled": photographs that need no download, cut into
            tiles; or "torchvision:SET:PART:FOLDER", or "hf:DATA:SPLIT" (Hugging Face), or tar shards: see docs/data.md;
            or several, mixed by weight: {one/folder: 0.7, other/folder: 0.3}.
        holdout: pictures, at most a tenth of all, that are never trained on; colour health (with
            objective.name labels: the classifier) is judged on them.
    """

    source: str | dict[str, float] = ""
    holdout: int = 256

    def __post_init__(self) -> None:
        if isinstance(self.source, dict):
            wrong = [name for name, weight in self.source.items() if not 0 < weight < math.inf]
            if wrong or not self.source:
                raise UserError(f"data.source: {wrong[0] if wrong else 'an empty mixture'}: give a weight above 0")
            unnamed = [name for name in self.source if not isinstance(name, str)]  # YAML reads 2012 as a number
            if unnamed:
                raise UserError(f"data.source: {unnamed[0]} is no name; if it is a folder's, write ./{unnamed[0]}")
            if not math.isfinite(sum(self.source.values())):
                raise UserError("data.source: the weights are too large; give shares, such as 0.7 and 0.3")
            if len(self.source) > 100:
                raise UserError(f"data.source: {len(self.source)} sources; at most 100 can be mixed")
        if self.holdout < 0:
            raise UserError(f"data.holdout is {self.holdout}: it must not be negative")


@dataclass
class BackboneSettings:
    """The network that learns.

    Args:
        name: tiny, alexnet, vgg, siggraph17, fusion, autoencoder, or any timm model, such as resnet18; or a plugin's.
        arguments: passed to the backbone's constructor, such as {geometry: test} for alexnet.
        weights: of a timm model: a local file of published weights to start from, .safetensors or .pth, or
            published, which fetches timm's own from the hub; empty starts from random weights.
        init: first weights, where no file gives them: random; data, scaled to pictures; or kmeans, clustered
            from them, as the paper's were.
        init_pictures: how many pictures init data or kmeans takes; all of them pass through memory at once.
    """

    name: str = "tiny"
    arguments: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    init: Init = "random"
    init_pictures: int = 160

    def __post_init__(self) -> None:
        if not all(isinstance(name, str) for name in self.arguments):
            raise UserError(f"backbone.arguments is {self.arguments}: its keys must be names")
        if "weights" in self.arguments:
            raise UserError("backbone.arguments holds weights; give them as backbone.weights")
        if self.weights and self.init != "random":
            raise UserError(f"backbone.init is {self.init}, which would undo backbone.weights: give one of them")
        if self.init_pictures < 1:
            raise UserError(f"backbone.init_pictures is {self.init_pictures}: it must be at least 1")


@dataclass
class ObjectiveSettings:
    """What the network learns.

    Args:
        name: rebalanced or plain classification over the colour bins, or regression; or labels, the
            supervised reference: the backbone learns the classes of a labelled data.source, and no colour; or
            a plugin's.
        stride: input pixels per point of the colour target.
        bin_step: of a classification: Lab units between neighbouring colour bins, 5 to 40. 10 gives the paper's 313;
            5 gives 1,083, 15 gives 159, 20 gives 101.
        neighbours: K, the bins that share a pixel's colour: 5 in the paper, 10 in its released code.
        sigma: of the Gaussian that shares them out, Lab units. With another bin_step, half of that shares them out
            in the same proportions, as 5 does at 10.
        prior: "estimate" from the pictures that are trained on, or a .npy file with a number for each bin, such as the
            published one of 313.
        prior_pictures: how many pictures an estimate takes.
        uniform: lambda, the share of the uniform distribution in the rebalancing.
        gray_threshold: a crop with no |a| or |b| above it has no loss.
        bounded: of a regression: a tanh keeps |a| and |b| below 110.
        huber: of a regression: Huber's loss, linear beyond so many Lab units; 0 is the squared distance (L2).
        classes_weight: alpha, the weight of naming each picture's class besides colouring it: a labelled data.source
            and backbone fusion, whose authors take 1/300 (0.00333); 0 learns colours alone.
    """

    name: str = "rebalanced"
    stride: int = 8
    bin_step: int = STEP
    neighbours: int = 10
    sigma: float = 5.0
    prior: str = "estimate"
    prior_pictures: int = 2000
    uniform: float = 0.5
    gray_threshold: float = 5.0
    bounded: bool = False
    huber: float = 0.0
    classes_weight: float = 0.0

    def __post_init__(self) -> None:
        known = [*OBJECTIVES, "labels"]
        if self.name not in known:
            near = difflib.get_close_matches(self.name, known, n=1)
            which = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise UserError(
                f"objective.name is {self.name}: {which} (one of your own is in a file: PRETINT_PLUGINS=FILE.py)"
            )
        if not 0 <= self.huber < math.inf or not 0 <= self.classes_weight < math.inf:
            raise UserError("objective.huber and objective.classes_weight must be finite and not negative")
        if self.huber and self.name != "regression":
            raise UserError(f"objective.huber is for a regression; objective.name is {self.name}")
        if self.classes_weight and self.supervised:
            raise UserError("objective.classes_weight is for networks that colour; objective.name is labels")
        if self.bounded and self.name != "regression":
            raise UserError(f"objective.bounded is for a regression; objective.name is {self.name}")
        if not STEPS[0] <= self.bin_step <= STEPS[1]:
            raise UserError(
                f"objective.bin_step is {self.bin_step}: it must lie in [{STEPS[0]}, {STEPS[1]}], Lab units"
            )
        if self.bin_step != STEP and self.name in ("regression", "labels"):
            raise UserError(f"objective.bin_step is for a classification of colours; objective.name is {self.name}")
        if not 1 <= self.neighbours <= self.bins:
            raise UserError(f"objective.neighbours is {self.neighbours}: from 1 to {self.bins} bins can share")
        if not self.sigma >= 0.1 or self.stride < 1 or self.prior_pictures < 1:
            raise UserError("objective.sigma must be at least 0.1, objective.stride and objective.prior_pictures 1")
        if not 0 <= self.uniform <= 1:
            raise UserError(f"objective.uniform is {self.uniform}: a share lies between 0 and 1")

    @property
    def bins(self) -> int:
        """Q, how many colour bins there are."""
        return len(bin_centres(self.bin_step))

    @property
    def gamut(self) -> Gamut:
        """The colour bins, and how the colours of pixels are shared out among them."""
        return Gamut(self.neighbours, self.sigma, self.bin_step)

    @property
    def supervised(self) -> bool:
        """Whether labels are learnt, and not colours."""
        return self.name == "labels"

    @property
    def labelled(self) -> bool:
        """Whether pictures must come with labels: instead of colours, or besides them."""
        return self.supervised or self.classes_weight > 0


@dataclass
class PretrainSettings:
    """A pretraining. All but the groups machine and online belong to its identity.

    Args:
        data: where the pictures come from.
        crop: how a picture becomes a training crop.
        backbone: the network that learns.
        objective: what it learns.
        hints: colours that it is given while it learns.
        training: how it is trained.
        machine: what may change between two calls on a run.
        online: a quick look at the features while they are learnt; it too may change.
        seed: of the initial weights, the order of pictures and their augmentation.
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
            raise UserError("hints.sampled is for networks that colour; objective.name is labels")
        if self.hints.sampled and self.objective.classes_weight:
            raise UserError("hints.sampled and objective.classes_weight: no backbone takes hints and names classes")

    @property
    def view_size(self) -> int:
        """The side at which a whole picture shows things as large as the crops of training do on average.

        The paper's: crops of 176 from pictures of 256 are looked at, later, at 256.
        """
        return round(self.crop.size / math.sqrt(sum(self.crop.area) / 2))


BACKBONE = "backbone."
"""What the names of a backbone's weights begin with in a checkpoint."""


class Pretrained(NamedTuple):
    """What a checkpoint holds, ready to use."""

    colorizer: Colorizer
    settings: PretrainSettings
    prior: Tensor
    """(Q,), float64; uniform where labels were learnt."""
    step: int
    has_head: bool = True
    """Whether there is a colour head; without one the colorizer can only give features."""
    untrained: bool = False
    """Whether it is the state of a run before its first step, and no import of published weights."""

    @property
    def warning(self) -> str:
        """A line for the user of an untrained network; empty for others."""
        if not self.untrained:
            return ""
        return "warning: no training step was done (step 0), so its colors mean nothing; train it first"


CLASS_BRANCH = "class_branch."
"""And those of what names classes besides; only a training has it."""


def build_colorizer(
    settings: PretrainSettings, prior: Tensor, published: bool = False, classes: Sequence[str] = ()
) -> Colorizer:
    """The colorizer of a recipe at random initial weights, which depend on the recipe's seed alone.

    A recipe that learns labels has none: this one then has its backbone, and a head for two channels of colour
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
                f"objective.classes_weight: backbone {settings.backbone.name} knows nothing of whole pictures to name "
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
        prior: (Q,), of a recipe that learns colours.
        classes: of one that learns labels, or these besides colours.
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


def colour_contract(settings: PretrainSettings, prior: Tensor | None) -> dict[str, Any]:
    """What a colour means to a checkpoint; checked when it is loaded, see ``check_contract``.

    Where labels are learnt, only lightness means anything.
    """
    seen = {"white": "D65", "lightness": [0, 100]}
    if settings.objective.supervised:
        return seen
    return {
        **seen,
        "bins": hashlib.sha256(bin_centres(settings.objective.bin_step).astype("<i8").tobytes()).hexdigest(),
        "neighbours": settings.objective.neighbours,
        "sigma": settings.objective.sigma,
        "temperature": TEMPERATURE,
        "prior": prior,
    }


def check_state(origin: Path, state: dict[str, Any], resumed: bool = False) -> None:
    """Refuse, by a ``UserError``, what is a checkpoint of ours but not a whole one of a pretraining."""
    if isinstance(state.get("settings"), dict) and "task" in state["settings"]:
        raise UserError(f"{origin}: a fine-tuned network, which this cannot take; name the run that it began from")
    kinds = {"step": int, "settings": dict, "colour": dict, "model": dict}
    if resumed:
        kinds |= {"optimizer": dict, "data": dict, "precision": str}
    wrong = [name for name, kind in kinds.items() if not isinstance(state.get(name), kind)]
    besides = state.get("class_branch", [])
    if not isinstance(besides, list) or not all(isinstance(name, str) for name in besides):
        wrong.append("class_branch")
    if "classes" in state:  # it learns labels, and knows no colour
        named = state["classes"]
        if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
            wrong.append("classes")
    else:
        prior = state["colour"].get("prior") if "colour" not in wrong else None
        if not isinstance(prior, Tensor) or prior.ndim != 1 or not float(prior.sum()) > 0:
            wrong.append("prior")
    if not isinstance(state.get("head", True), bool):
        wrong.append("head")
    if wrong:
        raise UserError(
            f"{origin}: a checkpoint, but not a whole one of a pretraining: {', '.join(wrong)} missing or wrong"
        )


def check_contract(origin: Path, settings: PretrainSettings, state: dict[str, Any]) -> None:
    """Refuse, by a ``UserError``, a checkpoint whose colours mean something else than ours."""
    colour = state["colour"]
    if settings.objective.supervised != ("classes" in state):
        raise UserError(f"{origin}: its settings and what it holds are not of one run (objective and classes); edited?")
    for name, value in colour_contract(settings, colour.get("prior")).items():
        if name != "prior" and colour.get(name) != value:
            raise UserError(f"{origin}: its colour contract has {name} {colour.get(name)}; this version needs {value}")
    count, prior = settings.objective.bins, colour.get("prior")
    if not settings.objective.supervised and len(prior) != count:
        raise UserError(f"{origin}: its prior has {len(prior)} bins; those of its settings are {count}. Is it damaged?")


def load_pretrained(path: Path) -> Pretrained:
    """The colorizer of a run (its newest checkpoint) or of a checkpoint file, on the CPU, in eval mode.

    Raises:
        UserError: there is none, it cannot be read, or it does not fit this version's networks or colours.
    """
    file = find_checkpoint(path)
    state = load_checkpoint(file)
    check_state(file, state)
    settings = settings_from(PretrainSettings, state["settings"], f"{file}: its settings")
    check_contract(file, settings, state)
    prior, weights = state["colour"].get("prior"), state.get("average", state["model"])
    if settings.objective.supervised:
        prior = torch.full((settings.objective.bins,), 1 / settings.objective.bins, dtype=torch.float64)
    if settings.objective.labelled and isinstance(weights, dict):  # what it names classes by is of no use here
        naming = "head." if settings.objective.supervised else CLASS_BRANCH
        weights = {name: value for name, value in weights.items() if not str(name).startswith(naming)}
    colorizer = build_colorizer(settings, prior)
    has_head = state.get("head", True) and not settings.objective.supervised
    expected = {key: value for key, value in colorizer.state_dict().items() if has_head or key.startswith(BACKBONE)}
    wrong = _misfits(expected, weights)
    if wrong:
        raise UserError(
            f"{file}: {len(wrong)} of its weights do not fit backbone {settings.backbone.name}, the first: {wrong[0]}"
        )
    colorizer.load_state_dict(weights, strict=has_head)
    if not has_head:
        colorizer.head = NoHead(str(path))
    untrained = state["step"] == 0 and not state.get("imported_from")
    return Pretrained(colorizer.eval(), settings, prior, state["step"], has_head, untrained)


def _misfits(expected: dict[str, Tensor], found: Any) -> list[str]:
    """What keeps ``found`` from being loaded where ``expected`` stands, a line per weight."""
    found = found if isinstance(found, dict) else {}
    wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
    wrong += [f"{name} has no place" for name in found.keys() - expected.keys()]
    for name in expected.keys() & found.keys():
        is_, should = list(getattr(found[name], "shape", ())), list(expected[name].shape)
        if is_ != should:
            wrong.append(f"{name} has shape {is_}, not {should}")
    return sorted(wrong)
