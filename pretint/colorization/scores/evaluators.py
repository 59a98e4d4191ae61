"""Networks that judge colored images: LPIPS, features of Inception, a classifier.

Their weights come from files or a hub, and are read without running any code in them.
"""

import hashlib
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from pretext.engine.archive import DamagedFileError, check_published
from timm.data import ImageNetInfo, resolve_model_data_config
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones.timm_weights import load_file
from pretext.engine.progress import say
from pretext.errors import UserError
from pretext.weights.state_dict import find_weights, flatten_names, read_file, split_part

HUB = "hub"
"""In place of a file: the weights that are published for it, from the hub or its local cache."""


class Unavailable(UserError):
    """A judge that cannot be had here: its column is left out, and the user is told why."""


def stored(file: str, names: Iterable[str]) -> dict[str, Tensor]:
    """The weights of the network in a file that has these names among its own.

    Raises:
        UserError: it cannot be read, holds more than tensors, or several such networks.
    """
    path, part = split_part(file)
    network = find_weights(flatten_names(read_file(path), str(path)), {name: name for name in names}, part, str(path))
    for line in network.lines():
        say(f"{path}: {line}")
    return network.weights


def hub_file(what: str, url: str) -> dict[str, Tensor]:
    """The weights at an address, from the hub or its local cache.

    Args:
        what: is left out without them, for the error.
        url: of the file.

    Raises:
        Unavailable: they cannot be fetched.
    """
    name = url.rpartition("/")[2]
    file = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        if file.is_file():
            check_published(file)
        # torch compares the digest in the name when it downloads, not when it reads its cache.
        found: dict[str, Tensor] = torch.hub.load_state_dict_from_url(
            url, map_location="cpu", progress=False, weights_only=True, check_hash=True
        )
    except DamagedFileError as error:
        raise Unavailable(f"{what} is left out: {error}") from error
    except Exception as error:  # as of a hub
        raise Unavailable(
            f"{what} is left out: {name} cannot be fetched ({type(error).__name__}); go online once, or name the file"
        ) from error
    return found


def load(net: nn.Module, weights: dict[str, Tensor], origin: str) -> None:
    """Put weights into a network, all of them and no others, but for batch norm's counters.

    Raises:
        UserError: they do not fit; ``origin`` names them.
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


def quietly(make: Callable[[], Any]) -> Any:
    """What is made, without the warnings and retries that others tell of meanwhile."""
    hub = logging.getLogger("huggingface_hub")  # it tells of every retry, for a minute
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


_INCEPTION_SIDE, _INCEPTION_LEAST = 299, 2048
_FID_INCEPTION = (
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth"
)


class Judge(nn.Module, ABC):
    """A network with fixed weights."""

    about: str

    @property
    def digest(self) -> str:
        """Of its name and all its weights."""
        found = hashlib.sha256(self.about.encode())
        for key, value in sorted(self.state_dict().items()):
            found.update(key.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return found.hexdigest()[:16]


class Lpips(Judge):
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
            raise Unavailable("LPIPS is left out: its package is missing; pip install 'pretint[color]'") from error
        from torchvision.models import AlexNet_Weights

        found = (
            hub_file("LPIPS", AlexNet_Weights.IMAGENET1K_V1.url) if file == HUB else stored(file, ["features.0.weight"])
        )
        first = getattr(found.get("features.0.weight"), "shape", ())
        kinds = {(64, 3, 11, 11): "alex", (64, 3, 3, 3): "vgg"}
        if tuple(first) not in kinds:
            raise UserError(f"{file}: neither torchvision's AlexNet nor its VGG-16, which LPIPS is made of")
        kind = kinds[tuple(first)]
        self.about = f"LPIPS 0.1 ({'AlexNet' if kind == 'alex' else 'VGG-16'})"
        self.net: nn.Module = quietly(lambda: lpips.LPIPS(net=kind, pnet_rand=True, verbose=False)).eval()
        # The package cuts the trunk into slices, whose layers keep their numbers.
        trunk = {key: f"features.{key.split('.', 1)[1]}" for key in self.net.net.state_dict()}
        load(self.net.net, {key: found[name] for key, name in trunk.items() if name in found}, file)

    @torch.inference_mode()
    def forward(self, rgb: Tensor, truth: Tensor) -> Tensor:
        """(B,), of images (B, 3, H, W), uint8."""
        distance: Tensor = self.net(_scaled(rgb), _scaled(truth))
        return distance.flatten()


class Features(Judge):
    """A network whose features are compared by ``frechet_distance``."""

    width: int

    @abstractmethod
    def forward(self, rgb: Tensor) -> Tensor:
        """(B, width), float32, of images (B, 3, H, W), uint8."""


class Inception(Features):
    """The 2,048 pooled features of Inception v3, of images brought to 299 pixels (bilinear, no antialiasing).

    By the file it is the network of FID (Heusel et al. 2017) as the package pytorch-fid ported it, whose pools leave
    out the padding, the last of which takes the maximum; or torchvision's, as it is. Their distances differ: only the
    first is what is called FID elsewhere.

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

        found = hub_file("FID", _FID_INCEPTION) if file == HUB else stored(file, ["fc.weight"])
        classes = len(found["fc.weight"]) if "fc.weight" in found else 0
        if classes not in (1000, 1008):
            raise UserError(f"{file}: not Inception v3 of pytorch-fid (1,008 classes) nor of torchvision (1,000)")
        as_published = classes == 1008
        self.about = "Inception v3 of pytorch-fid" if as_published else "Inception v3 of torchvision: not the usual FID"
        self.net: nn.Module = inception_v3(num_classes=classes, aux_logits=False, init_weights=False).eval()
        own = {key: value for key, value in found.items() if not key.startswith("AuxLogits.")}
        load(self.net, own, file)
        self.net.fc = nn.Identity()
        if as_published:
            for name in ("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"):
                _pool_by(self.net.get_submodule(f"Mixed_{name}"), _mean_without_padding)
            _pool_by(self.net.get_submodule("Mixed_7c"), _largest)

    @torch.inference_mode()
    def forward(self, rgb: Tensor) -> Tensor:
        """See ``Features.forward``."""
        side = (_INCEPTION_SIDE, _INCEPTION_SIDE)
        seen = F.interpolate(rgb.float() / 255, size=side, mode="bilinear", align_corners=False)
        features: Tensor = self.net(2 * seen - 1)
        return features


class TopClass(Judge):
    """A classifier of timm's: whether the class it gives the highest score is that of the label.

    Images are brought to the model's input size (bicubic) and normalized as its weights ask for; no crop.

    Args:
        word: ``MODEL:FILE``, timm's name and a file of its weights; or ``MODEL``, with those of the hub.
        classes: names of the source's classes, by label.

    Raises:
        UserError: timm has no such model, the file does not fit, or its classes are not the source's.
        Unavailable: the hub cannot be reached.
    """

    def __init__(self, word: str, classes: Sequence[str]) -> None:
        super().__init__()
        model, _, file = word.partition(":")
        if not timm.is_model(model):
            raise UserError(
                f"classifier {word}: timm has no model {model}; give MODEL:FILE, as in resnet50:weights.pth"
            )
        try:
            net: nn.Module = quietly(lambda: timm.create_model(model, pretrained=not file))
        except Exception as error:  # a hub fails in as many ways as there are layers between
            raise Unavailable(
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
        self.register_buffer("place", torch.tensor(_places(model, net, classes)))

    @torch.inference_mode()
    def forward(self, rgb: Tensor, labels: Tensor) -> Tensor:
        """(B,), bool: right or wrong, of images (B, 3, H, W), uint8, and labels, (B,)."""
        side = (self.side, self.side)
        seen = F.interpolate(rgb.float() / 255, size=side, mode="bicubic", align_corners=False, antialias=True)
        scores: Tensor = self.net((seen.clamp(0, 1) - self.mean) / self.std)
        return scores.argmax(1) == self.place[labels]


def _places(model: str, net: nn.Module, classes: Sequence[str]) -> list[int]:
    """Which of the classifier's outputs stands for each class of the source."""
    outputs = int(getattr(net, "num_classes", 0))
    if outputs == 1000:  # ImageNet's: by WordNet's names, which its folders have
        named = {name: place for place, name in enumerate(ImageNetInfo().label_names())}
        if all(name in named for name in classes):
            return [named[name] for name in classes]
    if outputs == len(classes):
        return list(range(outputs))
    raise UserError(
        f"classifier {model}: it knows {outputs:,} classes, and the images have {len(classes)} "
        f"({', '.join(classes[:3])}, ...); folders named n01440764, ... go with the 1,000 of ImageNet"
    )


def _pool_by(block: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
    """In place of the block's own pooling, which is a function and cannot be exchanged: its result is not used."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[:] = inputs

    def exchange(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (pool(seen.pop()),)

    block.register_forward_pre_hook(keep)
    block.get_submodule("branch_pool").register_forward_pre_hook(exchange)


def _mean_without_padding(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _largest(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=1, padding=1)


def _scaled(rgb: Tensor) -> Tensor:
    return rgb.float() / 127.5 - 1


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
