"""Weights for timm's models: from a file in any layout that timm itself can read, or timm's own from the hub."""

import inspect
import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pretext.engine import distributed
from pretext.engine.progress import say
from pretext.errors import UserError
from pretext.weights.state_dict import COUNTER, Weights, check_names, find_weights, flatten_names, read_file, split_part


def fetch_weights(name: str, origin: str, instead: str) -> Weights:
    """Return a model's published weights, from the hub or its local cache.

    Raises:
        UserError: no weights are published, or they cannot be fetched. The message begins with ``origin``, the user's
            words, and ends with ``instead``, the advice.
    """
    import timm  # not at the top: the import takes seconds

    if not timm.get_pretrained_cfg(name).has_weights:
        raise UserError(f"{origin}: timm has no weights for this model; use another tag, or {instead}")
    hub = logging.getLogger("huggingface_hub")  # it logs every retry, for a minute
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        stored: Weights = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # the hub can raise anything
        reason = f"{type(error).__name__}: {first_line(error)[:120]}"
        raise UserError(f"{origin}: its weights cannot be fetched ({reason}); go online once, or {instead}") from error
    finally:
        hub.setLevel(level)
    return stored


def load_file(net: nn.Module, name: str, file: str | Path, arguments: Mapping[str, Any]) -> None:
    """Load a file into the features-only net of a timm model; see ``load_weights``.

    Args:
        net: made by ``timm.create_model`` with ``features_only``.
        name: the model's name.
        file: .safetensors or .pth; ``FILE#PART`` for one of several networks in it.
        arguments: the other arguments that the net was made with.

    Raises:
        UserError: the file cannot be read without running code, or holds no weights of this model.
    """
    path, part = split_part(file)
    load_weights(net, name, flatten_names(read_file(path), f"weights {path}"), arguments, f"weights {path}", part)


def load_weights(
    net: nn.Module, name: str, stored: Weights, arguments: Mapping[str, Any], origin: str, part: str = ""
) -> None:
    """Load weights into the features-only net of a timm model.

    Weights that the full model has and this net lacks (classifier, final norm, late stages) are left out, and so is any
    other head in the classifier's place. A first layer for RGB is summed over R, G and B for a net with one channel;
    for named channels it is repeated, as by timm.
    Weights in another layout, or for another image size, are converted by timm's own function for the model.

    Args:
        net, name, arguments: see ``load_file``.
        stored: weights by name.
        origin: where they come from, for messages.
        part: one of several networks, see ``find_weights``.

    Raises:
        UserError: a weight is missing, unknown or of another shape.
    """
    import timm

    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            full = timm.create_model(name, pretrained=False, **arguments)
            if "aux_logits" in inspect.signature(type(full).__init__).parameters:  # Inception's auxiliary head
                full = timm.create_model(name, pretrained=False, aux_logits=True, **arguments)
    except Exception as error:  # timm's models can raise anything
        raise UserError(
            f"{origin}: the weights cannot be checked, because timm cannot make the whole {name} with these arguments "
            f"({first_line(error)}); change the arguments"
        ) from error
    names = _names_in_full_model(net, full)
    expected = {full_name: full_name for full_name in names} | {
        net_name: full_name for full_name, net_name in names.items()
    }
    counterless = {alias: full_name for alias, full_name in expected.items() if not full_name.endswith(COUNTER)}
    convert = _find_converter(name, full)
    network = find_weights(stored, counterless, part, origin, convert)
    lines = network.lines()
    weights = {expected.get(key, key): value for key, value in network.weights.items()}
    state = net.state_dict()
    shapes = {full_name: state[net_name].shape for full_name, net_name in names.items()}
    try:
        fitted = _fit(weights, shapes, full, origin, f"timm's {name}")
    except UserError as error:
        converted = convert(network.weights)
        for key, value in converted.items():
            resized = key in network.weights and value.numel() != network.weights[key].numel()
            if resized and "pos" not in key:  # more than position embeddings: another patch size
                raise
        try:
            fitted = _fit(converted, shapes, full, origin, f"timm's {name}")
        except UserError:
            raise error from None
        lines.append(f"its weights have another layout or image size; timm's function for {name} converted them")
    net.load_state_dict({names[full_name]: value for full_name, value in fitted.items()}, strict=False)
    for line in lines if distributed.rank() == 0 else ():
        say(f"{origin}: {line}")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's type if the message is empty."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _names_in_full_model(net: nn.Module, full: nn.Module) -> dict[str, str]:
    """Return the names of the features-only net's weights, by their names in the full model.

    This net wraps the model in one child, or joins the first two levels of its names by underscores.
    """
    children = [child for child, _ in net.named_children()]
    wrapper = f"{children[0]}." if len(children) == 1 else ""
    flat = {key.replace(".", "_"): key for key in full.state_dict()}
    names = {}
    for net_name in net.state_dict():
        full_name = flat.get(net_name.replace(".", "_")) or flat.get(net_name.removeprefix(wrapper).replace(".", "_"))
        assert full_name is not None, f"timm's features-only net has a weight that the model lacks: {net_name}"
        names[full_name] = net_name
    return names


def _find_converter(name: str, full: nn.Module) -> Callable[[Weights], Weights]:
    """Return timm's function that converts a checkpoint of another layout; it returns {} where it fails."""
    import timm

    module = sys.modules[timm.model_entrypoint(name.partition(".")[0]).__module__]
    functions = [value for key, value in vars(module).items() if "filter" in key and inspect.isfunction(value)]
    parameters = inspect.signature(functions[0]).parameters if functions else {}
    inputs: dict[str, Any] = {"model": full} if "model" in parameters else {}
    if "adapt_layer_scale" in parameters:  # as timm does for DeiT III; other models have nothing to adapt
        inputs["adapt_layer_scale"] = True

    def convert(weights: Weights) -> Weights:
        try:
            converted = functions[0](dict(weights), **inputs) if functions else weights
        except Exception:  # the weights may have any names and shapes
            return {}
        return {key: value for key, value in converted.items() if isinstance(value, Tensor)}

    return convert


def _fit(weights: Weights, shapes: Mapping[str, torch.Size], full: nn.Module, origin: str, network: str) -> Weights:
    """Return the weights for a net of these shapes, by the full model's names; check names and shapes."""
    import timm

    published = full.state_dict()
    config: Any = full.pretrained_cfg
    classifier = config.get("classifier") or ()
    # Pretrained networks can have other heads in the classifier's place.
    heads = tuple(f"{part}." for part in ((classifier,) if isinstance(classifier, str) else classifier))
    check_names(weights, shapes, lambda key: key in published or key.startswith(heads), origin, network)
    fitted = {}
    for key, shape in shapes.items():
        if key not in weights:
            continue
        value, rgb = weights[key], published[key].shape
        if value.shape == rgb != shape and value.ndim == 4 and rgb[1] == 3 * shape[1]:
            value = value.reshape(len(value), -1, 3, *rgb[2:]).sum(2)
        elif value.shape == rgb != shape and value.ndim == 4 and rgb[1] == 3:
            value = timm.models.adapt_input_conv(shape[1], value)  # R, G, B, R, ...: the sum of weights stays
        if value.shape != shape:
            raise UserError(
                f"{origin}: {key} is {tuple(value.shape)}, but {tuple(shape)} in {network}: is it another model's file?"
            )
        fitted[key] = value
    return fitted
