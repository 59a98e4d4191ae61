"""The online probe: a quick evaluation of the features during pretraining. It is never a result.

Its images may be those that the backbone is trained on, and its protocol is made to be cheap. What a
backbone is worth is said by the probes of ``transfer``, on images that nothing has seen.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pretext.backbones.contract import Backbone
from pretext.color import rgb_to_lightness
from pretext.data.batches import EvalDataset
from pretext.data.labels import require_single_labels
from pretext.data.order import mix, permute_index
from pretext.data.source import LabeledDataset
from pretext.engine.device import ComputeConfig, autocast
from pretext.engine.progress import progress
from pretext.errors import UserError

DIMS = 512
"""A stage of C channels is average-pooled to the finest k x k grid with at most so many C k^2, at least 1 x 1."""

PENALTY = 0.1
"""Of the ridge classifier, in units of the features' mean variance: multiplying all features changes nothing."""

MEMORY = 2**30
"""The most bytes that the images may take."""

_KEY = 0x0211E
_AT_ONCE = 64


@dataclass
class OnlineSettings:
    """A quick evaluation of the features during pretraining: a trend, not a result.

    Args:
        source: labeled images: a folder with one sub-folder per class, or "bundled"; empty does not look.
        images: at most so many of them, drawn by the seed: four fifths teach a classifier, one fifth judges it.
            They stay in memory, 3 bytes a pixel, 1 GiB at most.
    """

    source: str = ""
    images: int = 2000

    def __post_init__(self) -> None:
        if self.images < 2:
            raise UserError(
                f"online.images is {self.images}: some are for training, others for testing; give at least 2"
            )


class OnlineProbe:
    """Labeled images, read once, on which a backbone is evaluated repeatedly.

    Image number r of the probe is a keyed permutation's r-th; the first four fifths teach. An image
    that cannot be read is left out, which moves no other from one part to the other.

    Args:
        source: the images and their labels.
        settings: how many of them.
        view_size: side at which they are seen (the middle square, resized), pixels.
        seed: of the permutation.

    Raises:
        UserError: fewer images than classes, one class only, several labels an image, more images than
            the memory may hold, or too many that cannot be read.
    """

    fitted: list[int]
    """The images that teach, by their index in the source."""
    judged: list[int]
    """The images that judge, likewise."""
    skipped: list[tuple[str, str]]
    """Key and reason of the images that cannot be read."""

    def __init__(self, source: LabeledDataset, settings: OnlineSettings, view_size: int, seed: int) -> None:
        count, names = min(settings.images, len(source)), source.classes
        where = f"online.source {settings.source}: "
        if len(names) < 2:
            raise UserError(f"{where}one class only ({', '.join(names)}); a classifier needs two")
        if count < len(names):
            raise UserError(f"{where}{count} images of {len(names)} classes; raise online.images or give more")
        labels = require_single_labels(
            source.labels, f"{where}images with several labels; the online probe wants one class an image"
        )
        each = 3 * view_size**2
        if count * each > MEMORY:
            raise UserError(
                f"online.images is {settings.images}: at {view_size} x {view_size} pixels {MEMORY // each} fit in "
                f"the {MEMORY >> 20} MiB that they may take; give no more"
            )
        drawn = [permute_index(rank, len(source), mix(seed, _KEY)) for rank in range(count)]
        every, views = EvalDataset(source, view_size), torch.empty(count, 3, view_size, view_size, dtype=torch.uint8)
        read: list[int] = []
        self.skipped = []
        with progress("images of the online probe", count, "images") as advance:
            for index in drawn:
                sample = every[index]
                if sample.rgb is not None:
                    views[len(read)] = sample.rgb
                    read.append(index)
                self.skipped += sample.skipped
                advance(1, "")
        teaching = set(drawn[: count * 4 // 5])
        self.fitted = [index for index in read if index in teaching]
        self.judged = [index for index in read if index not in teaching]
        self._views, self._classes = views[: len(read)], len(names)
        self._labels = torch.from_numpy(labels[read])
        if len(set(labels[self.fitted].tolist())) < 2 or not self.judged:
            bad = f" ({len(self.skipped)} of {count} cannot be read)" if self.skipped else ""
            raise UserError(f"{where}too few images to teach two classes and to judge{bad}; raise online.images")

    @torch.inference_mode()
    def __call__(self, backbone: Backbone, place: ComputeConfig) -> dict[str, float]:
        """Evaluate a backbone; its weights, statistics and modes stay as they were, no random number is drawn.

        Args:
            backbone: on the place's device.
            place: where, at which precision.

        Returns:
            accuracy_STAGE: of every stage, in [0, 1]; nan where features are not finite.
            chance: the accuracy of always naming the class that is most frequent among the images that teach.
        """
        count = len(self.fitted)
        train_labels, test_labels = self._labels[:count], self._labels[count:]
        accuracies = {"chance": float((test_labels == train_labels.bincount().argmax()).double().mean())}
        pooled: dict[str, list[Tensor]] = {stage.name: [] for stage in backbone.stages}
        in_training = [module for module in backbone.modules() if module.training]
        backbone.eval()
        try:
            for rgb in self._views.split(_AT_ONCE):
                lightness = rgb_to_lightness(rgb.to(place.device)).contiguous(memory_format=torch.channels_last)
                with autocast(place):
                    stages = backbone(lightness)
                for stage, maps in stages.items():
                    side = max(1, math.isqrt(DIMS // maps.shape[1]))
                    height, width = (min(side, length) for length in maps.shape[-2:])
                    pooled[stage].append(F.adaptive_avg_pool2d(maps.float(), (height, width)).flatten(1).cpu())
        finally:
            for module in in_training:  # one by one: part of a backbone may be frozen in eval mode
                module.training = True
        for stage, parts in pooled.items():
            features = torch.cat(parts)  # (images, dims), float32
            accuracy = math.nan
            if bool(features.isfinite().all()):
                weight, bias = ridge(features[:count], train_labels, self._classes)
                predicted = (features[count:].double() @ weight + bias).argmax(1)
                accuracy = float((predicted == test_labels).double().mean())
            accuracies[f"accuracy_{stage}"] = accuracy
        return accuracies


def ridge(features: Tensor, labels: Tensor, classes: int, penalty: float = PENALTY) -> tuple[Tensor, Tensor]:
    """Return the linear classifier of least squares against one-hot targets, in closed form.

    It minimizes the squared error plus penalty * N * v * |weight|^2, where v is the mean variance of the
    features; the bias is not penalised. (scikit-learn's RidgeClassifier with alpha = penalty * N * v.)

    Args:
        features: (N, dims).
        labels: (N,), int64 in [0, classes).
        classes: how many.
        penalty: see above.

    Returns:
        weight (dims, classes) and bias (classes,), float64; the class of an image is the argmax of
        features @ weight + bias.
    """
    features, targets = features.double(), F.one_hot(labels, classes).double()
    mean, share = features.mean(0), targets.mean(0)
    centered = features - mean
    gram = centered.T @ centered
    strength = penalty * float(gram.trace()) / len(gram) or 1.0  # constant features: any strength gives no weight
    weight = torch.linalg.solve(
        gram + strength * torch.eye(len(gram), dtype=gram.dtype), centered.T @ (targets - share)
    )
    return weight, share - mean @ weight
