"""The networks that look at colored images, as the settings name them; each that cannot be had is told of."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pretint.colorization.scores.evaluators import Features, Inception, Judge, Lpips, TopClass
from pretint.colorization.scores.weights import Unavailable

_LATER = (  # what needs weights that nobody named
    "LPIPS is left out: name AlexNet's weights (torchvision's alexnet-owt-7be5be79.pth) with --lpips",
    "FID is left out: name Inception's weights (pt_inception-2015-12-05-6726825d.pth) with --inception",
    "top-1 is left out: name a classifier, as in --classifier vgg16:FILE, and images with labels",
)

J = TypeVar("J", bound=Judge)


class Panel(NamedTuple):
    """On the device."""

    lpips: Lpips | None
    features: Features | None
    classifier: TopClass | None
    labels: NDArray[np.int64] | None
    """Of all images of the source."""
    missing: list[str]
    """Why others are not there, a line each."""

    @property
    def present(self) -> list[Judge]:
        """All of them."""
        return [judge for judge in (self.lpips, self.features, self.classifier) if judge is not None]

    @property
    def fields(self) -> list[str]:
        """Of the records, beyond the usual."""
        return ["lpips"] * (self.lpips is not None) + ["right"] * (self.classifier is not None)

    @property
    def width(self) -> int:
        """Of the features; 0 without them."""
        return self.features.width if self.features is not None else 0


def open_panel(
    lpips: str,
    inception: str,
    classifier: str,
    labels: NDArray[np.int64] | None,
    classes: Sequence[str],
    device: torch.device,
) -> Panel:
    """The networks that are named.

    Args:
        lpips: see ``Lpips``; "" for none, as of the others.
        inception: see ``Inception``.
        classifier: see ``TopClass``.
        labels: of the images; a classifier needs them.
        classes: their names.
        device: where they run.

    Raises:
        UserError: weights that are named cannot be read, or are of another network.
    """
    missing = [said for name, said in zip((lpips, inception, classifier), _LATER, strict=True) if not name]

    def opened(make: Callable[[], J], named: str) -> J | None:
        try:
            return make().to(device).eval() if named else None
        except Unavailable as error:
            missing.append(str(error))
            return None

    return Panel(
        opened(lambda: Lpips(lpips), lpips),
        opened(lambda: Inception(inception), inception),
        opened(lambda: TopClass(classifier, classes), classifier),
        labels,
        missing,
    )
