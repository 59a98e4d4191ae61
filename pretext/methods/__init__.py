"""Methods: what a backbone is trained for. Each has its file; all have the same interface."""

import difflib
import inspect
from dataclasses import dataclass
from typing import Any

from pretext import roles
from pretext.errors import UserError
from pretext.methods.colorization import Colorization
from pretext.methods.contract import Ingredients, Method
from pretext.methods.contrastive import SimCLR, VICReg
from pretext.methods.cross_channel import CrossChannel
from pretext.methods.joined import Joined
from pretext.methods.mae import MAE
from pretext.methods.rotation import Rotation
from pretext.methods.split_brain import SplitBrainPrediction
from pretext.methods.supervised import Supervised
from pretext.plugins import Registry

METHODS: Registry[type[Method]] = Registry(
    "method",
    {
        "colorization": Colorization,
        "supervised": Supervised,
        "rotation": Rotation,
        "simclr": SimCLR,
        "vicreg": VICReg,
        "mae": MAE,
        "split_brain": SplitBrainPrediction,
        "joined": Joined,
        "cross_channel": CrossChannel,
    },
)
"""Name -> a class whose constructor takes ``Ingredients`` and, by name, arguments of its own."""


@dataclass
class MethodSettings:
    """What the backbone is trained for.

    Args:
        name: colorization, rotation, simclr, vicreg, mae, split_brain, joined (contrast and color), cross_channel
            (named channels), or the name of a plugin's method. supervised is the reference: it learns the classes of a
            labeled data.source.
        arguments: passed to the method, such as {temperature: 0.2} for simclr. Colorization has none: see objective.
    """

    name: str = roles.science("colorization")
    arguments: dict[str, Any] = roles.science(dict)

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            near = difflib.get_close_matches(self.name, METHODS, n=1)
            which = f"did you mean {near[0]}?" if near else f"there are {', '.join(METHODS)}"
            raise UserError(
                f"method.name is {self.name}: {which} (one of your own is in a file: PRETINT_PLUGINS=FILE.py)"
            )
        if not all(isinstance(name, str) for name in self.arguments):
            raise UserError(f"method.arguments is {self.arguments}: its keys must be texts")

    @property
    def kind(self) -> type[Method]:
        """The class of the method."""
        return METHODS[self.name]


def build_method(settings: MethodSettings, parts: Ingredients) -> Method:
    """Build a method with random weights.

    Raises:
        UserError: it does not have an argument, one is out of its range, or it cannot train this backbone.
    """
    signature = inspect.signature(settings.kind)
    try:
        signature.bind(parts, **settings.arguments)
    except TypeError as error:
        takes = ", ".join([*signature.parameters][1:]) or "none"
        raise UserError(f"method {settings.name}: {error} (arguments it takes: {takes})") from error
    for name, value in settings.arguments.items():
        default = signature.parameters[name].default if name in signature.parameters else None
        kinds = {int: (int, "a whole number"), float: (int | float, "a number"), str: (str, "a text")}
        kind, title = kinds.get(type(default), (object, ""))
        if not isinstance(value, kind) or (isinstance(value, bool) and title):
            raise UserError(f"method.arguments: {name} is {value!r}: it must be {title}")
    return settings.kind(parts, **settings.arguments)
