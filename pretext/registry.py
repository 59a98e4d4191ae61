"""What a user can name: Pretint's own, and what plugins add."""

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

from pretext.errors import UserError

T = TypeVar("T")


class Registry(dict[str, T]):
    """Name -> what it stands for. A name is given once: what it means must not depend on what was loaded last.

    Args:
        what: all these are, in a word, for the errors.
        own: Pretint's own.
        taken: whether a name means something else already.
    """

    def __init__(self, what: str, own: Mapping[str, T], taken: Callable[[str], bool] = lambda name: False) -> None:
        super().__init__(own)
        self.what, self.taken = what, taken
        self.added: set[str] = set()
        """By plugins."""

    def __setitem__(self, name: str, value: T) -> None:
        """Add one.

        Raises:
            UserError: the name is not one, or is taken.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII):
            raise UserError(f"{name!r} cannot name a new {self.what}: take letters, digits, _ and -")
        if name in self or self.taken(name):
            raise UserError(f"{self.what} {name} is there already; give yours another name")
        super().__setitem__(name, value)
        self.added.add(name)
