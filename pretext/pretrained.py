"""Load a pretrained network from a run or a checkpoint, and check that its colors mean the same here."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.run import find_checkpoint
from pretext.errors import UserError
from pretext.gamut import TEMPERATURE, bin_centers
from pretext.methods.colorization import Colorizer, NoHead
from pretext.methods.objectives import Regression
from pretext.recipe import PretrainSettings, build_network
from pretext.settings import settings_from

BACKBONE = "backbone."
"""The prefix of the names of a backbone's weights in a checkpoint."""


CLASS_BRANCH = "class_branch."
"""The prefix of the class branch's weights; only networks in training have one."""


class Pretrained(NamedTuple):
    """A network from a checkpoint, ready to use."""

    colorizer: Colorizer
    settings: PretrainSettings
    prior: Tensor
    """(Q,), float64; uniform if the network learned no colors."""
    step: int
    has_head: bool = True
    """Whether there is a color head; without one the colorizer can only compute features."""
    untrained: bool = False
    """Whether no training step was done and the weights are not imported."""

    @property
    def warning(self) -> str:
        """A warning for the user of an untrained network; empty for others."""
        if not self.untrained:
            return ""
        return "warning: the network is untrained (step 0), so its colors mean nothing; train it first"


def color_contract(settings: PretrainSettings, prior: Tensor | None) -> dict[str, Any]:
    """Return how a checkpoint encodes color. ``check_contract`` compares it when the checkpoint is loaded.

    For a network that learns no colors, this is only the encoding of lightness.
    """
    lightness = {"white": "D65", "lightness": [0, 100]}
    if not settings.method.kind.colored:
        return lightness
    return {
        **lightness,
        "bins": hashlib.sha256(bin_centers(settings.objective.bin_step).astype("<i8").tobytes()).hexdigest(),
        "neighbors": settings.objective.neighbors,
        "sigma": settings.objective.sigma,
        "temperature": TEMPERATURE,
        "prior": prior,
    }


def check_state(origin: Path, state: dict[str, Any], resumed: bool = False) -> None:
    """Raise a ``UserError`` for a checkpoint that is not a complete one of a pretraining."""
    if isinstance(state.get("settings"), dict) and "task" in state["settings"]:
        raise UserError(
            f"{origin}: a fine-tuned network, but this needs a pretrained one; give the run that it began from"
        )
    kinds = {"step": int, "settings": dict, "color": dict, "model": dict}
    if resumed:
        kinds |= {"optimizer": dict, "data": dict, "precision": str}
    wrong = [name for name, kind in kinds.items() if not isinstance(state.get(name), kind)]
    for part in ("class_branch", "classes"):
        names = state.get(part, [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            wrong.append(part)
    if "color" not in wrong and "bins" in state["color"]:  # else it learns no colors
        prior = state["color"].get("prior")
        if not isinstance(prior, Tensor) or prior.ndim != 1 or not float(prior.sum()) > 0:
            wrong.append("prior")
    if not isinstance(state.get("head", True), bool):
        wrong.append("head")
    if wrong:
        raise UserError(
            f"{origin}: not a complete checkpoint of a pretraining: {', '.join(wrong)} missing or wrong; "
            "give another checkpoint"
        )


def check_contract(origin: Path, settings: PretrainSettings, state: dict[str, Any]) -> None:
    """Raise a ``UserError`` for a checkpoint that encodes color in another way than this version."""
    color = state["color"]
    colored = settings.method.kind.colored
    if settings.method.kind.labeled != ("classes" in state) or colored != ("bins" in color):
        raise UserError(
            f"{origin}: its settings do not fit its contents (method, colors and classes); restore the file if it was "
            "edited"
        )
    for name, value in color_contract(settings, color.get("prior")).items():
        if name != "prior" and color.get(name) != value:
            raise UserError(
                f"{origin}: its color contract has {name} {color.get(name)}; this version needs {value}; train it again"
            )
    count, prior = settings.objective.bins, color.get("prior")
    if colored and len(prior) != count:
        raise UserError(
            f"{origin}: its prior has {len(prior)} bins, but its settings have {count}; restore the file from a copy"
        )


def load_pretrained(path: Path) -> Pretrained:
    """Load the colorizer of a run (its newest checkpoint) or of a checkpoint file, on the CPU, in eval mode.

    Raises:
        UserError: there is no checkpoint, it cannot be read, or it does not fit this version's networks or colors.
    """
    file = find_checkpoint(path)
    state = load_checkpoint(file)
    check_state(file, state)
    settings = settings_from(PretrainSettings, state["settings"], f"{file}: its settings")
    check_contract(file, settings, state)
    prior, weights = state["color"].get("prior"), state.get("average", state["model"])
    if prior is None:
        prior = torch.full((settings.objective.bins,), 1 / settings.objective.bins, dtype=torch.float64)
    has_head = bool(state.get("head", True)) and settings.colorizes
    if isinstance(weights, dict):  # of heads, only a color head is used here
        dropped = (CLASS_BRANCH,) if settings.colorizes else ("",)
        weights = {
            name: value
            for name, value in weights.items()
            if str(name).startswith(BACKBONE) or not str(name).startswith(dropped)
        }
    network = build_network(settings, prior, state.get("classes", ()))
    if isinstance(network, Colorizer):
        colorizer = network
    else:
        colorizer = Colorizer(network.backbone, Regression(), settings.objective.stride)
    expected = {key: value for key, value in colorizer.state_dict().items() if has_head or key.startswith(BACKBONE)}
    tensors = weights if isinstance(weights, dict) else {}
    wrong = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    wrong += [f"{name} is not in the network" for name in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        shape, should = list(getattr(tensors[name], "shape", ())), list(expected[name].shape)
        if shape != should:
            wrong.append(f"{name} has shape {shape}, not {should}")
    if wrong:
        wrong.sort()
        raise UserError(
            f"{file}: {len(wrong)} of its weights do not fit backbone {settings.backbone.name}, the first: {wrong[0]}"
        )
    colorizer.load_state_dict(weights, strict=has_head)
    if not has_head:
        colorizer.head = NoHead(str(path))
    untrained = state["step"] == 0 and not state.get("imported_from")
    return Pretrained(colorizer.eval(), settings, prior, state["step"], has_head, untrained)
