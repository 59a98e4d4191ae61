"""Plugins: Python files of the user that add backbones, methods, objectives, sources and tasks to a ``Registry``.

A plugin runs with all rights of the user. So only the user can name it: in the environment, or in a call of
``load_plugins``. No file that Pretint reads (a checkpoint, a recipe) can name a plugin.
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
    """Values by name. A name can be added only once, so that its meaning does not depend on the order of loading.

    Args:
        kind: the kind of the values, such as "backbone", for error messages.
        builtin: the values of Pretint itself.
        is_reserved: returns whether a name has another meaning already.
    """

    def __init__(
        self, kind: str, builtin: Mapping[str, T], is_reserved: Callable[[str], bool] = lambda name: False
    ) -> None:
        super().__init__(builtin)
        self.kind, self.is_reserved = kind, is_reserved
        self.added: set[str] = set()
        """The names that plugins added."""

    def __setitem__(self, name: str, value: T) -> None:
        """Add a value.

        Raises:
            UserError: the name is invalid, or exists already.
        """
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII):
            raise UserError(f"{name!r} is not a valid name for a new {self.kind}: use letters, digits, _ and -")
        if name in self or self.is_reserved(name):
            raise UserError(f"{self.kind} {name} exists already; choose another name")
        super().__setitem__(name, value)
        self.added.add(name)


def load_plugins(*files: str | Path) -> None:
    """Run files that add to ``BACKBONES``, ``METHODS``, ``OBJECTIVES``, ``DATASETS`` or ``TASKS``; each once a process.

    A file is imported under its name, and its folder is added at the end of ``sys.path``, so that worker processes
    find it. It should not import other files of its folder: these are not in ``plugin_contents`` and are not sent to a
    cluster.

    Args:
        files: paths that end in .py; by default those in ``VARIABLE``. The variable is then written again with
            absolute paths, so that processes in other folders find the files too.

    Raises:
        UserError: a file is missing, has the name of another module, or fails; the message has the line.
    """
    raw_paths = [Path(file) for file in files or filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))]
    paths = [file.expanduser().absolute() for file in raw_paths]
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
        except Exception as error:  # a plugin may raise any error
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
