"""The last stages of a backbone by themselves, to look at regions: ResNet's layer4 (C4), AlexNet's fc6 and fc7."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pretext.backbones.contract import Stage
from pretext.errors import UserError
from transfer.adapt import Adapted
from transfer.tasks.alignment import Features, probe_side, probed, stage_of


class LastStages(nn.Sequential):
    """Modules that were a backbone's, one after the other; given maps, the mean over all places of what they make.

    Args:
        modules: in the order in which they run.
        still: names, within this, of modules that act as in evaluation whatever the mode.
    """

    def __init__(self, modules: Sequence[nn.Module], still: Sequence[str]) -> None:
        super().__init__(*modules)
        self.still = tuple(still)

    def forward(self, pooled: Tensor) -> Tensor:
        """(n, C, h, w) -> (n, D)."""
        maps: Tensor = super().forward(pooled)  # type: ignore[no-untyped-call]
        return maps.mean((2, 3))

    def train(self, mode: bool = True) -> "LastStages":
        """As of any module, but that what is frozen stays in evaluation mode."""
        super().train(mode and any(weight.requires_grad for weight in self.parameters()))
        for name in self.still:
            self.get_submodule(name).training = False
        return self


def start_of(features: Features, neck: Sequence[Stage], after: str) -> Stage:
    """The stage in whose place regions go into the last stages.

    Args:
        features: the backbone.
        neck: the stages that regions are read from: one.
        after: the name of the stage; "" is the neck's.

    Raises:
        UserError: nothing comes after it, the neck does not come before it or has other channels.
    """
    names = [stage.name for stage in features.stages]
    if len(neck) > 1 or neck[0].name == names[-1]:
        said, takes = "+".join(stage.name for stage in neck), ", ".join(names[:-1]) or "none here"
        raise UserError(f"head.neck is {said}: box stage takes one stage that is not the last: {takes}")
    start = stage_of(features, after or neck[0].name)
    if not names.index(neck[0].name) <= names.index(start.name) < len(names) - 1:
        raise UserError(
            f"head.box_after is {after}: it must lie from the neck, {neck[0].name}, on, and before {names[-1]}"
        )
    if start.channels != neck[0].channels:
        raise UserError(
            f"head.box_after is {start.name}, of {start.channels} channels: what comes after it cannot look at the "
            f"{neck[0].channels} of {neck[0].name}"
        )
    return start


def take_last_stages(features: Features, after: str) -> LastStages:
    """The modules that make the last stage of the one called ``after``, taken out of ``features``.

    What ``features`` gives for the stages behind ``after`` is afterwards of no use, and costs nothing.

    Raises:
        UserError: no modules do, one after the other, or not with maps of (B, C, H, W).
    """
    assert isinstance(features, nn.Module)
    ran: dict[int, tuple[nn.Module, Tensor, Tensor]] = {}
    times: Counter[nn.Module] = Counter()

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        times[module] += 1
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not isinstance(output, Tensor):
            return output
        output = output.clone()  # its own, also where a module hands on what it is given, so that all are found
        ran[id(output)] = (module, inputs[0], output)
        return output

    hooks = [module.register_forward_hook(note) for module in features.modules()]
    maps = probed(features, probe_side(features))
    for hook in hooks:
        hook.remove()
    last = features.stages[-1].name
    at, taken = maps.get(last), list[nn.Module]()
    while at is not None and at is not maps[after]:
        module, at, _ = ran.get(id(at), (None, None, None))
        if module is not None and times[module] == 1:
            taken.insert(0, module)
        else:
            at = None
    if at is None:
        raise UserError(f"head.box is stage: no part of the backbone makes {last} from {after}; take layers")
    still: list[str] = []
    for number, module in enumerate(taken):
        path = next(path for path, own in features.named_modules() if own is module)
        if isinstance(features, Adapted):
            still += [f"{number}.{name}".rstrip(".") for name in features.release(path)]
        features.set_submodule(path, nn.Identity())
    return LastStages(taken, still)
