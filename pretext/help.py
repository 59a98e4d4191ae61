"""The help of a command: its settings by group, with their types in words, from the docstrings of the dataclasses."""

import dataclasses
import inspect
import re
import shutil
import textwrap
import typing
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretext.settings import Positional

_TITLES = {
    "science": "Settings that change the result",
    "content": "Images and other inputs",
    "machine": "Speed, machine and output (these do not change the result)",
    "": "Options",
}
_TYPES = {int: "NUMBER", float: "NUMBER", str: "TEXT", Path: "PATH", bool: "true|false", Any: "VALUE"}
_INDENT = 26
"""The column at which descriptions begin."""


def format_help(
    program: str, about: str, kind: type[Any], positionals: "Sequence[Positional]", file: str = "--config"
) -> str:
    """Return the help of a command, as wide as the terminal.

    Args:
        program: the command, as it is typed.
        about: what it does.
        kind: the dataclass of its settings.
        positionals: its positional arguments.
        file: the option that names a file of settings.
    """
    width = max(60, min(shutil.get_terminal_size().columns, 120))
    names = {"*": "[{} ...]", "+": "{} [{} ...]", "?": "[{}]", None: "{}"}
    typed = [names[one.nargs].format(*[one.name.upper()] * 2) for one in positionals]
    has_settings = bool(dataclasses.fields(kind))
    usage = " ".join(["usage:", program, *typed, *(["[--OPTION VALUE ...]"] if has_settings else [])])
    lines = [*textwrap.wrap(usage, width, subsequent_indent=" " * 8), "", *textwrap.wrap(about, width), ""]
    for one in positionals:
        lines += _entry(one.name.upper(), one.help, width)
    if has_settings:
        lines += _entry(f"{file} FILE", "a YAML file of settings; options override it", width)
        lines += _entry("--print_config", "show all settings as such a file, and do nothing else", width)
        for title, entries in _groups(kind):
            lines += ["", *textwrap.wrap(f"{title}:", width)]
            for left, text in entries:
                lines += _entry(left, text, width)
    return "\n".join(lines)


def _groups(kind: type[Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return titles and settings: first those that are in no group, by their role; then the groups."""
    by_role: dict[str, list[tuple[str, str]]] = {}
    groups = []
    texts, types = _descriptions(kind), typing.get_type_hints(kind)
    usual = kind()
    for field in dataclasses.fields(kind):
        default = getattr(usual, field.name)
        if dataclasses.is_dataclass(default):
            inner_texts, inner_types = _descriptions(type(default)), typing.get_type_hints(type(default))
            entries = [
                _setting(f"{field.name}.{one.name}", inner_types[one.name], inner_texts, getattr(default, one.name))
                for one in dataclasses.fields(default)
            ]
            groups.append((f"{field.name.capitalize()}: {texts.get(field.name, '').rstrip('.')}", entries))
        else:
            role = field.metadata.get("role", "")
            entry = _setting(field.name, types[field.name], texts, default)
            by_role.setdefault("science" if role == "seed" else role, []).append(entry)
    return [
        (_TITLES[role], by_role[role]) for role in ("content", "science", "", "machine") if role in by_role
    ] + groups


def _setting(name: str, kind: Any, texts: dict[str, str], default: Any) -> tuple[str, str]:
    """Return a setting with its type, and its description with its default."""

    def show(value: Any) -> str:
        if isinstance(value, (list, tuple)):
            shown = ",".join(map(show, value))
            return f"[{shown}]" if isinstance(value, tuple) else shown
        if isinstance(value, float):
            return f"{value:.4g}"
        return str(value).lower() if isinstance(value, bool) else str(value)

    text = texts.get(name.rpartition(".")[2], "")
    text = text if text.endswith("...") else text.removesuffix(".")
    remark = f" (default: {show(default)})" if show(default) not in ("", "{}") else ""
    return f"--{name} {describe_type(kind)}", text + remark


def describe_type(kind: Any) -> str:
    """Return the type of a setting in words for a user: "NUMBER", "cpu|cuda", "NAME,NAME,..."."""
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return "|".join(map(str, parts))
    if origin in (UnionType, typing.Union):
        return " or ".join(describe_type(part) for part in parts if part is not type(None))
    if origin is dict:
        return "{NAME: VALUE, ...}" if parts[1] is not float else "{NAME: NUMBER, ...}"
    if origin is tuple and Ellipsis not in parts:
        return f"[{','.join(map(describe_type, parts))}]"
    if origin in (list, tuple):
        return f"{describe_type(parts[0])},..."
    return _TYPES.get(kind, "VALUE")


def _entry(left: str, text: str, width: int) -> list[str]:
    """Return the lines of an argument and its description."""
    space = " " * _INDENT
    lines = textwrap.wrap(text, width, initial_indent=space, subsequent_indent=space)
    if lines and len(left) <= _INDENT - 4:
        return [f"  {left:{_INDENT - 2}}{lines[0].strip()}", *lines[1:]]
    return [f"  {left}", *lines]


def _descriptions(kind: type[Any]) -> dict[str, str]:
    """Return the descriptions of settings, from the section Args of the docstrings of a dataclass and its bases."""
    texts: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        section = inspect.cleandoc(part.__doc__ or "").partition("Args:\n")[2].partition("\n\n")[0]
        for entry in re.split(r"\n {4}(?=\w+:)", f"\n{section}")[1:]:
            name, _, text = entry.partition(":")
            texts[name] = " ".join(text.split())
    return texts
