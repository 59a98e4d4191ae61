"""Plugins: Python files of a user's own that add backbones, objectives, sources and tasks by name to a ``Registry``.

Such a file runs with all that its user may do, so that user alone names it: in the environment, or by
``load_plugins``. Nothing that Pretint reads (a checkpoint, a recipe) can name one.
"""

import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pretext.errors import UserError

T = TypeVar("T")

VARIABLE = "PRETINT_PLUGINS"
"""The environment variable that names such files, with the system's separator of paths (a colon) between them."""

_contents: dict[Path, bytes] = {}


class Registry(dict[str, T]):
    """Values by name. A name is given once: its meaning must not depend on what was loaded last.

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
        """Add a value.

        Raises:
            UserError: the name is not one, or is taken.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII):
            raise UserError(f"{name!r} cannot name a new {self.what}: take letters, digits, _ and -")
        if name in self or self.taken(name):
            raise UserError(f"{self.what} {name} is there already; give yours another name")
        super().__setitem__(name, value)
        self.added.add(name)


def load_plugins(*files: str | Path) -> None:
    """Run files that add to ``BACKBONES``, ``OBJECTIVES``, ``DATASETS`` or ``TASKS``; each once in a process.

    A file is imported under its own name, and its folder is put at the end of ``sys.path``, so that worker processes
    find it. It should hold all that it needs: its neighbors are not in ``plugin_contents``, nor sent to a cluster.

    Args:
        files: ending in .py; without any, those that ``VARIABLE`` names, which is then written with full paths so that
            processes that begin elsewhere find them too.

    Raises:
        UserError: a file is missing, has a name that something else has, or fails; says in which line.
    """
    given_paths = [Path(file) for file in files or filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))]
    paths = [file.expanduser().absolute() for file in given_paths]
    if paths and not files:
        os.environ[VARIABLE] = os.pathsep.join(map(str, paths))
    for path in paths:
        if path.resolve() in _contents:
            continue
        name = path.stem
        if path.suffix != ".py" or "." in name:
            raise UserError(f"plugin {path}: give a Python file, NAME.py, without another dot in its name")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"plugin {path}: cannot be read ({error.strerror}); see {VARIABLE}") from error
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        importlib.invalidate_caches()
        spec = sys.modules[name].__spec__ if name in sys.modules else importlib.util.find_spec(name)
        if spec is None or spec.origin is None or Path(spec.origin).resolve() != path.resolve():
            raise UserError(f"plugin {path}: there is another module called {name}; rename the file")
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever the file does
            lines = [
                frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path
            ]
            if isinstance(error, SyntaxError) and error.lineno:
                lines.append(error.lineno)
            where = f"line {lines[-1]}: " if lines else ""
            reason = next(iter(str(error).splitlines()), "") or "no reason given"
            raise UserError(f"plugin {path}, {where}{type(error).__name__}: {reason}") from error
        _contents[path.resolve()] = content


def plugin_contents() -> tuple[bytes, ...]:
    """Return the contents of the files that were loaded, sorted: they are part of the code behind a result."""
    return tuple(sorted(_contents.values()))


def plugin_digests() -> dict[str, str]:
    """Return the SHA-256 of the files that were loaded, by their paths, in the order of loading."""
    return {str(path): hashlib.sha256(content).hexdigest() for path, content in _contents.items()}
