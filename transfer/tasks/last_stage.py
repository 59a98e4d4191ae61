"""The last stage of a backbone by itself, to look at regions of the stage before as ResNet's C4 form does."""

from typing import Any

from torch import Tensor, nn

from pretext.errors import UserError
from transfer.tasks.alignment import Features, probe_side, probed


def take_last_stage(features: Features) -> nn.Module:
    """The module that makes the last stage from the one before, taken out of ``features``.

    What ``features`` gives for its last stage afterwards is of no use, and costs nothing.

    Raises:
        UserError: no single module does, or not with maps of (B, C, H, W).
    """
    assert isinstance(features, nn.Module)
    before, last = features.stages[-2:]
    ran: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            ran.append((module, inputs[0], output))

    hooks = [module.register_forward_hook(note) for module in features.modules()]
    maps = probed(features, probe_side(features))
    for hook in hooks:
        hook.remove()
    made = [
        module
        for module, given, output in ran
        if maps and given is maps[before.name] and output is maps[last.name] and not isinstance(module, nn.Identity)
    ]
    if not made:
        raise UserError(f"head.box is stage: no part of the backbone makes {last.name} from {before.name}; take layers")
    paths = [path for path, module in features.named_modules() if module is made[-1]]
    features.set_submodule(paths[0], nn.Identity())
    return made[-1]
