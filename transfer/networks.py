"""Frozen networks to evaluate: from a run, published, or with random weights; each is named in one word."""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pretext import roles
from pretext.backbones import BACKBONES, Backbone, Stage, build_backbone
from pretext.backbones.contract import FromRgb
from pretext.backbones.from_timm import TimmColor, is_timm_model, timm_models
from pretext.data.channels import channels_of
from pretext.data.source import ImageDataset
from pretext.errors import UserError
from pretext.pretrained import load_pretrained
from pretext.recipe import PretrainSettings
from pretext.scale import ChannelScale, ScaleSettings
from pretext.settings import settings_file
from pretext.weights.state_dict import weights_title

Kind = Literal["random", "pretrained", "supervised", "published"]

_FORMS = (
    "a run or checkpoint, random:RUN, random:RECIPE.yaml, random:BACKBONE, timm:MODEL, timm:MODEL:FILE or "
    "timm:MODEL:random"
)
_IMAGENET_SIZE = 224


@dataclass
class Network:
    """A frozen network to evaluate: sRGB images in, features of every stage out."""

    name: str
    """Its name in tables: the run's folder, "random", "timm:resnet50", "random:resnet18"."""
    group: str
    """Equal for the same network at other seeds, and only then: 16 hex digits."""
    kind: Kind
    """supervised means a run that learned labels."""
    seed: int
    """The seed of its training or of its random weights; 0 for published weights."""
    step: int
    """Training steps done; 0 for random and published weights."""
    backbone: str
    stages: tuple[Stage, ...]
    view_size: int
    """The side, in pixels, to which whole images are resized by default."""
    weights: str
    """SHA-256, in hex, of its architecture and of all its parameters and buffers when it was opened."""
    module: nn.Module
    """Images, as ``Backbone.to_unit`` takes them -> stage name -> (B, C, h, w); in eval mode, without gradients."""
    calibrated: bool
    """Whether batch-norm statistics must be taken from training images first: ``features.calibrate_batch_norm``."""
    run: Path | None
    """The folder of the run that it belongs to; results are stored there."""
    own_view: bool = False
    """Whether it sees any part of an image at ``view_size``, because it was made for one size."""
    scale_settings: ScaleSettings | None = None
    """How the scale of its channels is found in training images; None if it has none, or that of a run."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Those that its backbone was built with."""
    source_channels: tuple[str, ...] = ()
    """The named channels of the images that it is prepared for; () for 8-bit sRGB."""
    calibration: str = ""
    """A description of the images that its batch-norm statistics come from; empty before they are computed."""

    def fit_size(self, size: int) -> int:
        """Return the side nearest to ``size`` that an image may have, in pixels."""
        return _get_backbone(self.module).fit_size(size)

    def size_at(self, ratio: float) -> int:
        """Return the side to which the middle square, ``ratio`` of an image's shorter side, is resized."""
        return self.fit_size(self.view_size if self.own_view else round(self.view_size * ratio))

    def set_source(self, source: ImageDataset) -> None:
        """Prepare it for images of a source.

        Raises:
            UserError: it cannot read their channels.
        """
        self.set_channels(channels_of(source))

    def set_channels(self, channels: tuple[str, ...]) -> None:
        """Prepare it for images of these channels; () are those of 8-bit sRGB. Raises UserError as ``set_source``."""
        _get_backbone(self.module).set_source(channels, self.name)
        self.source_channels = channels

    @property
    def in_color(self) -> bool:
        """Whether it is a model of timm as published, for sRGB."""
        return not isinstance(self.module, FromRgb)

    @property
    def scale(self) -> ChannelScale | None:
        """The scale of the named channels that it reads."""
        inner = self.module.backbone if isinstance(self.module, FromRgb) else self.module
        return inner.scale if isinstance(inner, Backbone) else None

    @property
    def channels(self) -> int:
        """How many channels the images have that it reads, see ``set_source``."""
        backbone = _get_backbone(self.module)
        return backbone.source_channels if self.scale is not None else 3

    @property
    def calibrates(self) -> bool:
        """Whether it needs images: for batch-norm statistics, or for the scale of its channels."""
        return self.calibrated and bool(self.norms or self.scale_settings)

    @property
    def norms(self) -> list[nn.modules.batchnorm._BatchNorm]:
        """Its batch normalizations."""
        return [module for module in self.module.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def open_network(spec: str, seed: int = 0, arguments: Mapping[str, Any] | None = None) -> Network:
    """Open the network that a user names.

    - ``RUN``, a run's folder or a checkpoint file: its backbone, which sees what it learned from.
    - ``random:RUN``: the same architecture at the random weights of that run's own seed.
    - ``random:RECIPE.yaml``: the architecture of a recipe of pretraining, at the random weights of its seed.
    - ``random:BACKBONE``: any backbone by its name, at the random weights of ``seed``; most see lightness only.
    - ``timm:MODEL``: in color, with its published weights, from the hub or its local cache.
    - ``timm:MODEL:FILE``: the same with the weights in a local .safetensors or .pth file. If the file holds several
      networks, ``FILE#PREFIX`` selects one by its prefix: ``dino.pth#teacher.backbone``.
    - ``timm:MODEL:random``: the same at the random weights of ``seed``.

    A backbone's name takes precedence over a run's: a run called resnet18 is ``random:./resnet18``.

    Args:
        spec: one of these.
        seed: the seed of random weights, in [0, 2^63).
        arguments: arguments of the backbone that replace those of its training, such as AlexNet's geometry; only
            arguments that change the computation and no weight.

    Returns:
        The network, on the CPU.

    Raises:
        UserError: there is no such network, or its weights cannot be downloaded or read, or do not fit.
    """
    overrides = dict(arguments or {})
    if spec.startswith("timm:"):
        return _open_timm(spec, seed, overrides)
    if spec.startswith("random:"):
        name = spec.removeprefix("random:")
        if name in BACKBONES or name.startswith("timm/") or is_timm_model(name):
            architecture = name.removeprefix("timm/")
            if name == "tiny":
                size = PretrainSettings().view_size
            elif architecture in BACKBONES:
                size = _IMAGENET_SIZE
            else:
                import timm  # not at the top: the import takes seconds

                size = int(timm.get_pretrained_cfg(architecture).input_size[-1])
            return _open_random(spec, name, overrides, seed, size, None)
        _require_path(spec, name)
        recipe = Path(name).suffix in (".yaml", ".yml")
        trained = None if recipe else load_pretrained(Path(name))
        settings = trained.settings if trained else settings_file(PretrainSettings, Path(name))
        name_of_backbone, merged = settings.backbone.name, {**settings.backbone.built_with, **overrides}
        run = None if recipe else _find_run(name)
        network = _open_random("random", name_of_backbone, merged, settings.seed, settings.view_size, run)
        if network.scale is not None:
            network.scale_settings = settings.scale
            network.scale.log.fill_(settings.scale.log)
            network.group = _hash_group(network.group, roles.changed(settings.scale))
            network.weights = _digest(network.module, name_of_backbone, merged)
        learned = trained.colorizer.backbone.scale if trained else None
        if network.scale is not None and learned is not None:  # it is no weight: values mean the same for both
            network.scale.load_state_dict(learned.state_dict())
            network.scale_settings = None
            network.group = _hash_group(network.group, [end.tolist() for end in learned.state_dict().values()])
            network.weights = _digest(network.module, name_of_backbone, merged)
        return network
    _require_path(spec, spec)
    path, pretrained, run = Path(spec), load_pretrained(Path(spec)), _find_run(spec)
    settings, backbone = pretrained.settings, pretrained.colorizer.backbone
    name, merged = settings.backbone.name, {**settings.backbone.built_with, **overrides}
    if overrides:  # the same weights in a backbone with other arguments
        weights_before, backbone = backbone.state_dict(), build_backbone(name, **merged)
        try:
            backbone.load_state_dict(weights_before)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{spec}: its weights do not fit {name} with {merged} ({reason}); remove the arguments"
            ) from error
    module = _freeze(FromRgb(backbone))
    weights = _digest(module, name, merged)
    science = roles.select(settings, "science", "content")
    # Imported weights have 0 steps and the settings of their release, whatever they were trained on.
    imported = "" if pretrained.step else weights
    kind: Kind = "supervised" if settings.method.kind.labeled else "pretrained"
    if path.is_dir():
        title = path.resolve().name
    else:
        title = f"{run.name}@{int(path.stem)}" if run and path.stem.isdecimal() else path.stem
    return Network(
        name=title,
        group=_hash_group(kind, science, pretrained.step, imported, *([overrides] if overrides else [])),
        kind=kind,
        seed=settings.seed,
        step=pretrained.step,
        backbone=name,
        stages=module.stages,
        view_size=module.backbone.fit_size(settings.view_size),
        weights=weights,
        module=module,
        calibrated=False,
        run=run,
        arguments=merged,
    )


def open_networks(
    specs: Sequence[str], seed: int, reference: bool, arguments: Mapping[str, Any] | None = None
) -> list[Network]:
    """Open the networks that a user names, each once; with ``reference``, first the random networks of all runs.

    Args:
        specs: as for ``open_network``.
        seed: as for ``open_network``.
        reference: whether to open, for every run, the same network at random weights.
        arguments: as for ``open_network``.

    Raises:
        UserError: as ``open_network``.
    """
    named = [open_network(spec, seed, arguments) for spec in specs]
    runs = dict.fromkeys(network.run for network in named if network.run and network.kind != "random")
    # With a folder before it: resnet18 may be the name of a run.
    others = [f"random:{run if run.is_absolute() else f'./{run}'}" for run in runs] if reference else []
    networks: dict[tuple[str, str, Path | None], Network] = {}
    for network in (*(open_network(spec, seed, arguments) for spec in others), *named):
        place = network.run.resolve() if network.run else None
        networks.setdefault((network.weights, network.kind, place), network)
    return list(networks.values())


def _open_timm(spec: str, seed: int, arguments: dict[str, Any]) -> Network:
    name, _, source = spec.removeprefix("timm:").partition(":")
    kind: Kind = "random" if source == "random" else "published"
    with _seeded(seed):
        module = TimmColor(name, weights=None if source in ("", "random") else source, **arguments)
    if not source:
        module.load_published()
    _freeze(module)
    weights = _digest(module, name, arguments)
    return Network(
        name=spec if kind == "random" or not source else f"timm:{name}:{weights_title(source)}",
        group=_hash_group(
            kind, "color", name, "" if kind == "random" else weights, *([arguments] if arguments else [])
        ),
        kind=kind,
        seed=seed if kind == "random" else 0,
        step=0,
        backbone=name,
        stages=module.stages,
        view_size=module.fit_size(module.own_size),
        weights=weights,
        module=module,
        calibrated=kind == "random",
        run=None,
        own_view=True,
        arguments=arguments,
    )


def _open_random(
    name: str, backbone: str, arguments: dict[str, Any], seed: int, size: int, run: Path | None
) -> Network:
    with _seeded(seed):
        module = _freeze(FromRgb(build_backbone(backbone, **arguments)))
    return Network(
        name=name,
        group=_hash_group("random", "lightness", backbone, arguments),
        kind="random",
        seed=seed,
        step=0,
        backbone=backbone,
        stages=module.stages,
        view_size=module.backbone.fit_size(size),
        weights=_digest(module, backbone, arguments),
        module=module,
        calibrated=True,
        run=run,
        own_view=name not in ("random", "random:tiny"),
        arguments=arguments,
    )


def open_architecture(backbone: str, arguments: dict[str, Any], in_color: bool, view_size: int) -> Network:
    """Open a network whose weights are loaded later; the arguments are those of a ``Network`` of the same names.

    Raises:
        UserError: there is no such backbone, or it does not take the arguments.
    """
    if in_color:
        return _open_timm(f"timm:{backbone}:random", 0, arguments)
    return _open_random("random", backbone, arguments, 0, view_size, None)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch as ``recipe.build_colorizer`` does before it draws a backbone's first weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _require_path(spec: str, path: str) -> None:
    """Refuse a path that does not exist; suggest the backbone with the most similar name."""
    if Path(path).exists():
        return
    names = [*BACKBONES, *timm_models()]
    near = [path] if path in names else difflib.get_close_matches(path, names, n=1, cutoff=0.7)
    forms = [f"random:{near[0]}", *(f"timm:{near[0]}" for _ in near if near[0] not in BACKBONES)] if near else []
    hint = f"did you mean {' or '.join(forms)}?" if near else f"give {_FORMS}"
    raise UserError(f"{spec}: no such network; {hint}")


def _find_run(path: str) -> Path | None:
    """Return the run that a path belongs to, if there is one."""
    folder = Path(path).resolve().parent.parent if Path(path).is_file() else Path(path)
    return folder if (folder / "settings.yaml").is_file() else None


def _freeze(module: Any) -> Any:
    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # the quickest, on any device


def _get_backbone(module: nn.Module) -> Backbone:
    inner = module.backbone if isinstance(module, FromRgb) else module
    assert isinstance(inner, Backbone)
    return inner


def _hash_group(*identity: Any) -> str:
    return hashlib.sha256(_canonical(identity)).hexdigest()[:16]


def _digest(module: nn.Module, backbone: str, arguments: dict[str, Any]) -> str:
    """Return SHA-256 over weights and architecture: arguments such as a stride change features and no weight."""
    inner = _get_backbone(module)
    digest = hashlib.sha256(_canonical([type(module).__name__, backbone, arguments]))
    tensors: dict[str, Tensor] = dict(chain(inner.named_parameters(), inner.named_buffers()))
    for name, tensor in sorted(tensors.items()):
        digest.update(_canonical([name, list(tensor.shape), str(tensor.dtype)]))
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()
