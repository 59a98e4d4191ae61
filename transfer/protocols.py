"""Protocols: frozen evaluation recipes, as data. A protocol's name is printed with every number."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

from pretext.errors import UserError

COSTS = tuple(sorted({10.0**power for power in range(-7, 3)} | {0.5**power for power in range(4, 20)}))
"""The costs that Goyal et al. try for SVMs: decades from 1e-7 to 100, and halvings from 0.5^4 to 0.5^19."""


@dataclass(frozen=True)
class Protocol:
    """The base of all protocols of frozen evaluation."""

    name: str
    about: str
    """A sentence or two on the method, and on its differences from the publication that it is named after."""
    ratio: float
    """An image is seen as its middle square with this share of its shorter side."""
    poolings: tuple[str, ...]
    """The rules by which a stage's map becomes a vector; see ``transfer.features.pool``."""
    holdout: float
    """Share of the training images held out to choose a setting or a stage, see ``transfer.splits``; 0: none."""

    @property
    def settings(self) -> dict[str, Any]:
        """All fields but name and sentence, as plain values."""
        return {key: value for key, value in asdict(self).items() if key not in ("name", "about")}

    def describe(self, n_fit: int) -> str:
        """Return ``about``, with what differs for ``n_fit`` training images."""
        return self.about


@dataclass(frozen=True)
class ProbeProtocol(Protocol):
    """A linear classifier of every stage."""


@dataclass(frozen=True)
class LinearProtocol(ProbeProtocol):
    """A linear classifier by stochastic gradient descent; the best of a grid of rates and decays is chosen."""

    rates: tuple[float, ...] = (0.01,)
    """Learning rates to try, at the schedule's peak, for batches of 256."""
    weight_decays: tuple[float, ...] = (5e-4,)
    """L2 penalties to try, added to the gradient, except for biases."""
    scaling: Literal["none", "standardize", "batch"] = "none"
    """How features are scaled: not; by mean and deviation of the training images; by batch norm without affine."""
    epochs: int = 28
    least_steps: int = 0
    """The smallest number of steps, where the epochs have fewer."""
    batch_size: int = 256
    momentum: float = 0.9
    nesterov: bool = False
    schedule: Literal["cosine", "step"] = "step"
    """The schedule of the learning rate: cosine to 0, or a tenth after each of ``milestones``."""
    milestones: tuple[float, ...] = (40 / 140, 80 / 140, 120 / 140)
    """As shares of the training."""
    rungs: tuple[float, ...] = ()
    """After these shares of the training, the half of a stage's classifiers worse on held-out images is dropped."""
    area: tuple[float, float] = (1.0, 1.0)
    """Augmented mode: smallest and largest share of the image that a training crop shows."""
    aspect: tuple[float, float] = (1.0, 1.0)
    """Augmented mode: smallest and largest width / height of a training crop."""
    square: bool = True
    """Augmented mode: cut crops from an image's middle square, not from the whole image."""
    flip: float = 0.5
    """Augmented mode: probability of a horizontal flip."""


@dataclass(frozen=True)
class LogisticProtocol(ProbeProtocol):
    """Multinomial logistic regression to its optimum by L-BFGS; fitted again to all training images."""

    penalties: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    """L2 penalties to try, from strong to weak; each starts where the stronger one ended."""
    iterations: int = 60
    """The limit for each penalty."""


@dataclass(frozen=True)
class NearestProtocol(Protocol):
    """Votes of the nearest training images by cosine, weighted by exp(similarity / temperature)."""

    neighbors: tuple[int, ...] = (10, 20, 100, 200)
    temperature: float = 0.07

    def possible_neighbors(self, n_fit: int) -> list[int]:
        """Return the numbers of neighbors with ``n_fit`` training images: a larger k is replaced by ``n_fit``."""
        return list(dict.fromkeys(min(k, n_fit) for k in self.neighbors))

    def describe_cap(self, n_fit: int) -> str:
        """Return which k are replaced with ``n_fit`` training images; empty if none is."""
        large = [str(k) for k in self.neighbors if k > n_fit]
        return f"k={n_fit}, all training images, in place of k={', '.join(large)}" if large else ""

    def describe(self, n_fit: int) -> str:
        """See ``Protocol.describe``."""
        cap = self.describe_cap(n_fit)
        return f"{self.about}; {cap}" if cap else self.about


@dataclass(frozen=True)
class SvmProtocol(Protocol):
    """A linear support vector machine per class, on L2-normalized features."""

    costs: tuple[float, ...] = COSTS
    folds: int = 3
    shots: tuple[int, ...] = ()
    """Numbers of positive images per class to fit to, one result for each; none: all images."""
    samples: int = 5
    """Draws of the positives, for each number of shots."""


_SEEN = 256
_ALEXNET = 227 / _SEEN
_RESNET = 224 / _SEEN
_ALEXNET_AREA = (_ALEXNET**2, _ALEXNET**2)  # a random window of 227 pixels from 256
_NINE = 9600

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        LinearProtocol(
            "modern",
            "a grid of linear classifiers after DINOv2: 13 learning rates x 2 weight decays x 2 poolings a stage, SGD "
            "with momentum and cosine for 10 epochs on standardized features; the worse half is dropped three times, "
            "and the winner chosen, on held-out training images (DINOv2 chose on the images it reports)",
            ratio=_RESNET,
            poolings=("mean", "average:2048"),
            holdout=0.1,
            rates=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1),
            weight_decays=(0.0, 1e-2),
            scaling="standardize",
            epochs=10,
            least_steps=300,
            schedule="cosine",
            rungs=(1 / 4, 1 / 2, 3 / 4),
            area=(0.08, 1.0),
            aspect=(3 / 4, 4 / 3),
            square=False,
        ),
        LinearProtocol(
            "zhang2016",
            "linear classifiers as Zhang et al. 2016 state them: average pooling with equal kernel and stride until a "
            "stage has less than 10,000 dimensions, no normalization; solver of their released code (SGD, 0.01, "
            "a tenth after 2/7, 4/7 and 6/7 of 28 epochs, batch 256, weight decay 5e-4); no setting is chosen, "
            "all training images teach",
            ratio=_ALEXNET,
            poolings=("window:10000",),
            holdout=0.0,
            area=_ALEXNET_AREA,
        ),
        LinearProtocol(
            "splitbrain",
            "linear classifiers as in the released code and in Zhang et al. 2017 (Split-Brain): bilinear resize to at "
            "most 9,600 dimensions (10/6/5/5/6 a side for AlexNet's five), batch norm without affine; solver as "
            "zhang2016",
            ratio=_ALEXNET,
            poolings=(f"bilinear:{_NINE}",),
            holdout=0.0,
            scaling="batch",
            area=_ALEXNET_AREA,
        ),
        LinearProtocol(
            "goyal2019",
            "linear classifiers after Goyal et al. 2019: their average pooling to about 9,000 dimensions, batch norm "
            "(without affine also for ResNet, where theirs has one), SGD with Nesterov momentum, 0.01, a tenth after "
            "2/7, 4/7 and 6/7 of 28 epochs, batch 256, weight decay 5e-4 (theirs for ResNet-50: 1e-4)",
            ratio=_RESNET,
            poolings=("goyal2019",),
            holdout=0.0,
            scaling="batch",
            nesterov=True,
            area=(_RESNET**2, _RESNET**2),
        ),
        LogisticProtocol(
            "logistic",
            "multinomial logistic regression to its optimum on standardized features, average-pooled to at most 2,048 "
            "dimensions; its L2 penalty is chosen on held-out training images, then it is fitted to all of them",
            ratio=1.0,
            poolings=("average:2048",),
            holdout=0.1,
        ),
        NearestProtocol(
            "knn",
            "votes of the k nearest training images by cosine of globally average-pooled features, weighted by "
            "exp(similarity / 0.07) (Wu et al. 2018); k = 20 and 200 are what others report, nothing is chosen",
            ratio=_RESNET,
            poolings=("mean",),
            holdout=0.0,
        ),
        SvmProtocol(
            "voc07_svm",
            "a linear SVM per class on L2-normalized features after Goyal et al. 2019 (squared hinge, positives count "
            "twice), its cost chosen for each class by 3-fold cross-validated average precision on the training "
            "images; an image is seen as its middle square, where theirs are squeezed to a square",
            ratio=1.0,
            poolings=("goyal2019",),
            holdout=0.0,
        ),
        SvmProtocol(
            "voc07_svm_lowshot",
            "linear SVMs as voc07_svm from k positive images a class, 5 draws; the cost is chosen for each k on "
            "training images that were not learned from (Goyal et al. 2019 chose it on the test images)",
            ratio=1.0,
            poolings=("goyal2019",),
            holdout=0.0,
            shots=(1, 2, 4, 8, 16, 32, 64, 96),
        ),
    )
}
"""By name."""


P = TypeVar("P", bound=Protocol)


def find_protocol(name: str, kind: type[P]) -> P:
    """Return the protocol of this name and kind.

    Raises:
        UserError: there is none, or it is of another kind.
    """
    known = {key: protocol for key, protocol in PROTOCOLS.items() if isinstance(protocol, kind)}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
    raise UserError(f"protocol {name}: this command has no such protocol; {hint}")
