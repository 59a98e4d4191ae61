"""Networks that evaluate colored images: LPIPS, features of Inception, a classifier.

Their weights come from files or a hub, and are read without running any code in them.
"""

import hashlib
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones.timm_weights import load_file
from pretext.engine.checkpoint import DamagedFileError, check_published
from pretext.engine.progress import say
from pretext.errors import UserError
from pretext.weights.state_dict import find_weights, flatten_names, read_file, split_part

HUB = "hub"
"""The value that means the published weights, from the hub or its local cache, instead of a file."""

_INCEPTION_SIDE = 299
_FID_INCEPTION = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)

_MISSING = (  # lines for the metrics whose weights are not named
    "LPIPS is left out: name AlexNet's weights (torchvision's alexnet-owt-7be5be79.pth) with --lpips",
    "FID is left out: name Inception's weights (pt_inception-2015-12-05-6726825d.pth) with --inception",
    "top-1 is left out: name a classifier, as in --classifier vgg16:FILE, and images with labels",
)

J = TypeVar("J", bound="Evaluator")


class EvaluatorUnavailableError(UserError):
    """An evaluator is not available here; its column is left out, and a message explains why."""


def read_weights(file: str, names: Iterable[str]) -> dict[str, Tensor]:
    """Return the weights of the network in a file whose tensors have these names.

    Raises:
        UserError: the file cannot be read, holds more than tensors, or holds several such networks.
    """
    path, part = split_part(file)
    network = find_weights(flatten_names(read_file(path), str(path)), {name: name for name in names}, part, str(path))
    for line in network.lines():
        say(f"{path}: {line}")
    return network.weights


def fetch_weights(what: str, url: str) -> dict[str, Tensor]:
    """Return the weights at an address, from the hub or its local cache.

    Args:
        what: the metric that is left out without them, for the error.
        url: the address of the file.

    Raises:
        Unavailable: they cannot be fetched.
    """
    name = url.rpartition("/")[2]
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        if file.is_file():
            check_published(file)
        # torch compares the digest in the name when it downloads, not when it reads its cache.
        weights: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, weights_only=True, check_hash=True
        )
    except DamagedFileError as error:
        raise EvaluatorUnavailableError(f"{what} is left out: {error}") from error
    except Exception as error:  # as of a hub
        raise EvaluatorUnavailableError(
            f"{what} is left out: {name} cannot be fetched ({type(error).__name__}); go online once, or name the file"
        ) from error
    return weights


def load_all(net: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Load all weights, and no others, into a network; batch norm's counters may be missing.

    Raises:
        UserError: they do not fit; the message names them by ``origin``.
    """
    try:
        missing, unexpected = net.load_state_dict(weights, strict=False)
    except RuntimeError as error:  # shapes
        raise UserError(f"weights {origin}: of another network ({' '.join(str(error).split())[:120]})") from error
    missing = [key for key in missing if not key.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise UserError(
            f"weights {origin}: of another network: {len(missing)} tensors are missing, {len(unexpected)} are too "
            f"many, the first: {[*missing, *unexpected][0]}"
        )


def call_quietly(make: Callable[[], Any]) -> Any:
    """Call ``make`` and return its result, without warnings and the hub's lines on retries."""
    hub = logging.getLogger("huggingface_hub")  # it logs every retry, for a minute
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # lpips asks torchvision in an old way; a pickle of odd make is read or refused
            return make()
    finally:
        hub.setLevel(level)


class Evaluator(nn.Module, ABC):
    """A network with fixed weights that evaluates images."""

    about: str

    @property
    def digest(self) -> str:
        """The hash of its name and all its weights."""
        digest = hashlib.sha256(self.about.encode())
        for key, value in sorted(self.state_dict().items()):
            digest.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


class Lpips(Evaluator):
    """LPIPS (Zhang et al., CVPR 2018), version 0.1, by the package ``lpips``: 0 for the same images.

    Args:
        file: torchvision's weights of AlexNet or VGG-16 (the trunk), or ``hub`` (AlexNet). The linear layers come with
            the package.

    Raises:
        UserError: the file cannot be read, or is of another network.
        Unavailable: the package is missing, or the hub cannot be reached.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        try:
            import lpips
        except ImportError as error:
            raise EvaluatorUnavailableError(
                "LPIPS is left out: its package is missing; pip install 'pretint[color]'"
            ) from error
        from torchvision.models import AlexNet_Weights

        weights = (
            fetch_weights("LPIPS", AlexNet_Weights.IMAGENET1K_V1.url)
            if file == HUB
            else read_weights(file, ["features.0.weight"])
        )
        first = getattr(weights.get("features.0.weight"), "shape", ())
        kinds = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}
        if tuple(first) not in kinds:
            raise UserError(f"{file}: neither torchvision's AlexNet nor its VGG-16, which LPIPS is made of")
        kind = kinds[tuple(first)]
        self.about = f"LPIPS 0.1 ({'AlexNet' if kind == 'alex' else 'VGG-16'})"
        self.net: nn.Module = call_quietly(lambda: lpips.LPIPS(net=kind, pnet_rand=True, verbose=False)).eval()
        # The package cuts the trunk into slices, whose layers keep their numbers.
        trunk = {key: f"features.{key.split('.', 1)[1]}" for key in self.net.net.state_dict()}
        load_all(self.net.net, {key: weights[name] for key, name in trunk.items() if name in weights}, file)

    @torch.inference_mode()
    def forward(self, rgb: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of images, (B, 3, H, W), uint8: (B,)."""
        distance: Tensor = self.net(_scale(rgb), _scale(truth))
        return distance.flatten()


class FeatureExtractor(Evaluator):
    """A network whose features are compared by ``frechet_distance``."""

    width: int

    @abstractmethod
    def forward(self, rgb: Tensor) -> Tensor:
        """Return features, (B, width), float32, of images (B, 3, H, W), uint8."""


class Inception(FeatureExtractor):
    """The 2,048 pooled features of Inception v3, of images resized to 299 pixels (bilinear, no antialiasing).

    The file decides between two networks. One is that of FID (Heusel et al. 2017), as ported by the package
    pytorch-fid: its pools leave out the padding, and the last one takes the maximum. The other is torchvision's,
    unchanged. Their distances differ: only the first is what is called FID elsewhere.

    Args:
        file: pt_inception-2015-12-05-6726825d.pth, or torchvision's inception_v3; or ``hub`` (the first).

    Raises:
        UserError: the file cannot be read, or is of another network.
        Unavailable: the hub cannot be reached.
    """

    width = 2048

    def __init__(self, file: str) -> None:
        super().__init__()
        from torchvision.models import inception_v3

        weights = fetch_weights("FID", _FID_INCEPTION) if file == HUB else read_weights(file, ["fc.weight"])
        classes = len(weights["fc.weight"]) if "fc.weight" in weights else 0
        if classes not in (1000, 1008):
            raise UserError(f"{file}: not Inception v3 of pytorch-fid (1,008 classes) nor of torchvision (1,000)")
        as_published = classes == 1008
        self.about = "Inception v3 of pytorch-fid" if as_published else "Inception v3 of torchvision: not the usual FID"
        self.net: nn.Module = inception_v3(num_classes=classes, aux_logits=False, init_weights=False).eval()
        load_all(self.net, {key: value for key, value in weights.items() if not key.startswith("AuxLogits.")}, file)
        self.net.fc = nn.Identity()
        if as_published:
            for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"):
                mean_pool = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
                _replace_pool(self.net.get_submodule(f"Mixed_{name}"), mean_pool)
            max_pool = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
            _replace_pool(self.net.get_submodule("Mixed_7c"), max_pool)

    @torch.inference_mode()
    def forward(self, rgb: Tensor) -> Tensor:
        """Return features, (B, 2048); see ``FeatureExtractor.forward``."""
        side = (_INCEPTION_SIDE, _INCEPTION_SIDE)
        seen = F.interpolate(rgb.float() / 255, size=side, mode="bilinear", align_corners=False)
        features: Tensor = self.net(2 * seen - 1)
        return features


class TopClass(Evaluator):
    """A classifier of timm: whether its top class is the label.

    Images are resized to the model's input size (bicubic), not cropped, and normalized as its weights need.

    Args:
        word: ``MODEL:FILE``, timm's name and a file of its weights; or ``MODEL``, with those of the hub.
        classes: the names of the classes in the data, by label.

    Raises:
        UserError: timm has no such model, the file does not fit, or its classes are not those of the data.
        Unavailable: the hub cannot be reached.
    """

    def __init__(self, word: str, classes: Sequence[str]) -> None:
        import timm  # not at the top: the import takes seconds
        from timm.data import ImageNetInfo, resolve_model_data_config

        super().__init__()
        model, _, file = word.partition(":")
        if not timm.is_model(model):
            raise UserError(
                f"classifier {word}: timm has no model {model}; give MODEL:FILE, as in resnet50:weights.pth"
            )
        try:
            net: nn.Module = call_quietly(lambda: timm.create_model(model, pretrained=not file))
        except Exception as error:  # a hub fails in many ways
            raise EvaluatorUnavailableError(
                f"top-1 is left out: {model}'s weights cannot be fetched ({type(error).__name__}); go online once, or "
                f"name a file: {model}:FILE"
            ) from error
        if file:
            load_file(net, model, file, {})
        self.net = net.eval()
        config = resolve_model_data_config(net)
        self.side: int = config["input_size"][-1]
        self.about = f"{model} at {self.side} px"
        self.mean: Tensor
        self.std: Tensor
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(config[name]).view(1, 3, 1, 1))
        self.place: Tensor
        outputs = int(getattr(net, "num_classes", 0))
        places = list(range(outputs)) if outputs == len(classes) else []
        if outputs == 1000:  # of ImageNet, by the WordNet names of its folders
            outputs_by_name = {name: output for output, name in enumerate(ImageNetInfo().label_names())}
            if all(name in outputs_by_name for name in classes):
                places = [outputs_by_name[name] for name in classes]
        if not places:
            raise UserError(
                f"classifier {model}: it knows {outputs:,} classes, and the images have {len(classes)} "
                f"({', '.join(classes[:3])}, ...); folders named n01440764, ... go with the 1,000 of ImageNet"
            )
        self.register_buffer("place", torch.tensor(places))

    @torch.inference_mode()
    def forward(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """Whether each image, (B, 3, H, W), uint8, is classified as its label, (B,): (B,), bool."""
        side = (self.side, self.side)
        seen = F.interpolate(rgb.float() / 255, size=side, mode="bicubic", align_corners=False, antialias=True)
        scores: Tensor = self.net((seen.clamp(0, 1) - self.mean) / self.std)
        return scores.argmax(1) == self.place[labels]


def _replace_pool(block: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
    """Use another pooling in a block. The block's own is a function and cannot be replaced: its result is not used."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[:] = inputs

    def exchange(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (pool(seen.pop()),)

    block.register_forward_pre_hook(keep)
    block.get_submodule("branch_pool").register_forward_pre_hook(exchange)


def _scale(rgb: Tensor) -> Tensor:
    return rgb.float() / 127.5 - 1


class Evaluators(NamedTuple):
    """The networks that evaluate colored images, on the device."""

    lpips: Lpips | None
    features: FeatureExtractor | None
    classifier: TopClass | None
    labels: NDArray[np.int64] | None
    """The labels of all images of the source."""
    missing: list[str]
    """A line for each network that is missing, with the reason."""

    @property
    def present(self) -> list[Evaluator]:
        """All networks that are not missing."""
        networks = (self.lpips, self.features, self.classifier)
        return [network for network in networks if network is not None]

    @property
    def width(self) -> int:
        """The length of a row of features; 0 without them."""
        return self.features.width if self.features is not None else 0


def open_panel(
    lpips: str,
    inception: str,
    classifier: str,
    labels: NDArray[np.int64] | None,
    classes: Sequence[str],
    device: torch.device,
) -> Evaluators:
    """Open the networks that are named.

    Args:
        lpips: see ``Lpips``; "" for none, as of the others.
        inception: see ``Inception``.
        classifier: see ``TopClass``.
        labels: the labels of the images; a classifier needs them.
        classes: the names of the classes.
        device: where the networks run.

    Raises:
        UserError: weights that are named cannot be read, or are of another network.
    """
    missing = [line for name, line in zip((lpips, inception, classifier), _MISSING, strict=True) if not name]

    def open_network(make: Callable[[], J], name: str) -> J | None:
        try:
            return make().to(device).eval() if name else None
        except EvaluatorUnavailableError as error:
            missing.append(str(error))
            return None

    return Evaluators(
        open_network(lambda: Lpips(lpips), lpips),
        open_network(lambda: Inception(inception), inception),
        open_network(lambda: TopClass(classifier, classes), classifier),
        labels,
        missing,
    )
