"""The online probe: a quick evaluation of the features during pretraining. Do not report it as a result.

Its images may be training images of the backbone, and its protocol is chosen to be cheap. For results, use the probes
of ``transfer`` on images that were not used for training.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pretext import roles
from pretext.backbones.contract import Backbone
from pretext.data.batches import EvalDataset
from pretext.data.channels import channels_of
from pretext.data.order import mix, permute_index
from pretext.data.source import LabeledDataset, require_single_labels
from pretext.engine.device import ComputeConfig, autocast
from pretext.engine.progress import progress
from pretext.errors import UserError

DIMS = 512
"""A stage of C channels is average-pooled to the finest k x k grid with C k^2 at most this number, at least 1 x 1."""

PENALTY = 0.1
"""The ridge penalty, relative to the features' mean variance: the scale of the features has no effect."""

MEMORY = 2**30
"""The largest size of all images together, in bytes."""

_KEY = 0x0211E
_AT_ONCE = 64


@dataclass
class OnlineSettings:
    """A quick evaluation of the features during pretraining: a trend, not a result.

    Args:
        source: labeled images: a folder with one sub-folder per class, or "bundled"; empty: no online probe.
        images: the largest number of images to use, drawn by the seed: four fifths train a classifier, one fifth
            tests it. They stay in memory, 3 bytes per pixel, at most 1 GiB.
    """

    source: str = roles.machine("")
    images: int = roles.machine(2000)

    def __post_init__(self) -> None:
        if self.images < 2:
            raise UserError(f"online.images is {self.images}: it must be at least 2, for training and for testing")


class OnlineProbe:
    """Labeled images, read once, on which a backbone is evaluated repeatedly.

    A keyed permutation gives the order of the images. The first four fifths train the classifier, the others test it.
    An image that cannot be read is left out; the other images stay in their part.

    Args:
        source: the images and their labels.
        settings: the number of images.
        view_size: side of the images (the middle square, resized), pixels.
        seed: seed of the permutation.

    Raises:
        UserError: there are fewer images than classes, only one class, several labels per image, more images than fit
            in the memory limit, or too many images that cannot be read.
    """

    train_indices: list[int]
    """The training images, by their index in the source."""
    test_indices: list[int]
    """The test images, by their index in the source."""
    skipped: list[tuple[str, str]]
    """Key and reason of the images that cannot be read."""

    def __init__(self, source: LabeledDataset, settings: OnlineSettings, view_size: int, seed: int) -> None:
        count, names = min(settings.images, len(source)), source.classes
        where = f"online.source {settings.source}: "
        if len(names) < 2:
            raise UserError(f"{where}one class only ({', '.join(names)}); a classifier needs two")
        if count < len(names):
            raise UserError(f"{where}{count} images of {len(names)} classes; raise online.images or add images")
        labels = require_single_labels(
            source.labels, f"{where}images have several labels; the online probe needs one class per image"
        )
        channels = channels_of(source)
        each = (4 * len(channels) or 3) * view_size**2
        if count * each > MEMORY:
            raise UserError(
                f"online.images is {settings.images}: at {view_size} x {view_size} pixels, at most {MEMORY // each} "
                f"images fit in {MEMORY >> 20} MiB; lower online.images"
            )
        drawn = [permute_index(rank, len(source), mix(seed, _KEY)) for rank in range(count)]
        dataset = EvalDataset(source, view_size)
        dtype = torch.float32 if channels else torch.uint8
        views = torch.empty(count, len(channels) or 3, view_size, view_size, dtype=dtype)
        read: list[int] = []
        self.skipped = []
        with progress("images of the online probe", count, "images") as advance:
            for index in drawn:
                sample = dataset[index]
                if sample.rgb is not None:
                    views[len(read)] = sample.rgb
                    read.append(index)
                self.skipped += sample.skipped
                advance(1, "")
        training = set(drawn[: count * 4 // 5])
        self.train_indices = [index for index in read if index in training]
        self.test_indices = [index for index in read if index not in training]
        self._views, self._classes = views[: len(read)], len(names)
        self._labels = torch.from_numpy(labels[read])
        if len(set(labels[self.train_indices].tolist())) < 2 or not self.test_indices:
            bad = f" ({len(self.skipped)} of {count} cannot be read)" if self.skipped else ""
            raise UserError(
                f"{where}too few images to train a classifier on two classes and to test it{bad}; raise online.images"
            )

    @torch.inference_mode()
    def __call__(self, backbone: Backbone, place: ComputeConfig) -> dict[str, float]:
        """Evaluate a backbone. Its weights, statistics and modes do not change, and no random number is drawn.

        Args:
            backbone: the backbone, on the device of ``place``.
            place: device and precision.

        Returns:
            accuracy_STAGE: the accuracy of each stage, in [0, 1]; nan if the features are not finite.
            chance: the accuracy of always predicting the most frequent class of the training images.
        """
        count = len(self.train_indices)
        train_labels, test_labels = self._labels[:count], self._labels[count:]
        accuracies = {"chance": float((test_labels == train_labels.bincount().argmax()).double().mean())}
        pooled: dict[str, list[Tensor]] = {stage.name: [] for stage in backbone.stages}
        in_training = [module for module in backbone.modules() if module.training]
        backbone.eval()
        try:
            for rgb in self._views.split(_AT_ONCE):
                x = backbone.to_input(rgb.to(place.device)).contiguous(memory_format=torch.channels_last)
                with autocast(place):
                    stages = backbone(x)
                for stage, maps in stages.items():
                    side = max(1, math.isqrt(DIMS // maps.shape[1]))
                    height, width = (min(side, length) for length in maps.shape[-2:])
                    pooled[stage].append(F.adaptive_avg_pool2d(maps.float(), (height, width)).flatten(1).cpu())
        finally:
            for module in in_training:  # each module alone: part of a backbone may be frozen in eval mode
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
    features; the bias is not penalized. (scikit-learn's RidgeClassifier with alpha = penalty * N * v.)

    Args:
        features: (N, dims).
        labels: (N,), int64 in [0, classes).
        classes: the number of classes.
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
