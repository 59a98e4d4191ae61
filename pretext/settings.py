"""Settings: dataclasses define them, YAML files set them, and the command line overrides them.

jsonargparse parses them. This module turns its errors into one line that names the file, the wrong setting and the
most similar setting that exists.
"""

import dataclasses
import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jsonargparse import ArgumentError as ParserError
from jsonargparse import ArgumentParser

from pretext.errors import UserError
from pretext.help import format_help
from pretext.yaml_reader import read_yaml, require_small

_ANSWERS = ("true", "false", "yes", "no")
S = TypeVar("S")
Parsed = tuple[list[Any], S]
"""A command's positional arguments, and its settings."""


def settings_from(kind: type[S], values: Any, where: str) -> S:
    """Return settings of dataclass ``kind`` from nested plain values.

    Args:
        kind: a dataclass whose fields all have defaults, possibly dataclasses themselves.
        values: the result of ``to_plain``, or part of it; missing settings have their defaults. A list of words may be
            a text with commas.
        where: the origin of the values, for error messages; may be empty.

    Raises:
        UserError: an unknown setting, or a value of the wrong type.
    """
    try:
        if not isinstance(values, dict):
            raise UserError("holds no settings; write a mapping of names to values")
        require_small(values)
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            if dataclasses.is_dataclass(field.type) and not isinstance(values.get(field.name) or {}, dict):
                raise UserError(
                    f"{field.name} is {values[field.name]!r}; a group: write its settings below it, one per line"
                )
        if empty := _empty(values, kind):
            raise UserError(f"{empty} has no value; give it one, or leave it out for its default")
        values = {**values}
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            words = values.get(field.name)
            if field.type == list[str] and isinstance(words, str) and not words.startswith("["):
                values[field.name] = words.split(",")
        parser = _parser_of_values(kind)  # type: ignore[arg-type]
        return _build(parser.instantiate(parser.parse_object(values)), kind)
    except (ParserError, UserError, ValueError) as error:  # ValueError: from settings of other packages
        message = _one_line(error, kind) if isinstance(error, ParserError) else str(error)
        raise UserError(f"{where}: {message}" if where else message) from error


def settings_file(kind: type[S], path: Path) -> S:
    """Read settings from a YAML file; raises as ``settings_from``, and if the file cannot be read."""
    return settings_from(kind, read_yaml(path), str(path))


def to_plain(settings: Any) -> Any:
    """Return settings as nested plain values (dicts, lists, strings, numbers), as in a YAML file."""
    if dataclasses.is_dataclass(settings):
        return {field.name: to_plain(getattr(settings, field.name)) for field in dataclasses.fields(settings)}
    if isinstance(settings, dict):
        return {str(key): to_plain(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [to_plain(value) for value in settings]
    return str(settings) if isinstance(settings, Path) else settings


def flatten(settings: Mapping[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Return settings of a dataclass by their full names: {training: {steps: 5}} becomes {training.steps: 5}.

    Raises:
        UserError: a setting has two values.
    """
    groups = [setting.name for setting in dataclasses.fields(kind) if dataclasses.is_dataclass(setting.type)]
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        is_group = name in groups and isinstance(value, dict)
        more = {f"{name}.{key}": item for key, item in value.items()} if is_group else {name: value}
        if twice := flat.keys() & more.keys():
            raise UserError(f"{min(twice)} is set twice; leave one out")
        flat |= more
    return flat


class Positional(NamedTuple):
    """A positional argument of a command, as in argparse; by default a path."""

    name: str
    help: str
    nargs: str | None = None
    kind: type = Path
    recipe: bool = False
    """Whether it is a file of settings, like the value of ``--config``."""

    def convert(self, value: Any) -> Any:
        """Return the value that plain values stand for.

        Raises:
            TypeError: they cannot be this argument.
        """
        if self.nargs == "?" and value is None:
            return None
        words = value if self.nargs in ("*", "+") else [value]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise TypeError(f"{self.name}: {value!r}")
        return [self.kind(word) for word in words] if words is value else self.kind(value)


def parse_command(
    program: str,
    about: str,
    kind: type[S],
    positionals: Sequence[Positional],
    arguments: Sequence[str],
    file: str = "--config",
) -> Parsed[S]:
    """Parse a command's positional arguments and settings.

    ``--config FILE`` (or the option that ``file`` names) sets many settings. Every setting is also an option; options
    override the file. A list of words may be written with commas: ``--stages conv1,conv5``. ``--freeze-to`` is the
    same as ``--freeze_to``, and ``--color`` alone is the same as ``--color true``.

    Raises:
        UserError: an unknown option, a wrong type, a missing argument, an unreadable file.
        SystemExit: after ``--help``.
    """
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(format_help(program, about, kind, positionals, file) + "\n")
        raise SystemExit(0)
    parser = _parser_of_words(kind, tuple(positionals), file)  # type: ignore[arg-type]
    underscored = []  # an option may be typed with dashes instead of underscores
    for argument in arguments:
        name, equals, value = argument.partition("=")
        is_option = re.fullmatch(r"--[A-Za-z][\w.-]*", name)
        underscored.append(f"--{name[2:].replace('-', '_')}{equals}{value}" if is_option else argument)
    # A boolean option without a value is true.
    switches = {f"--{name}" for name in _names(kind, of=bool)}
    arguments = [
        f"{argument}=true" if argument in switches and following.lower() not in _ANSWERS else argument
        for argument, following in pairwise([*underscored, ""])
    ]
    for part, path in _config_files(arguments, file, kind):  # first alone, so that an error message can name the file
        changed = path.stat().st_mtime_ns if path.is_file() else 0
        _check_file(part, path, changed)  # type: ignore[arg-type]
    for argument in arguments:
        try:
            require_small(argument.partition("=")[2] if argument.startswith("-") else argument)
        except UserError as error:
            raise UserError(f"{argument[:40]!r}...: {error} (see {program} --help)") from error
    try:
        if any(positional.recipe for positional in positionals):
            recipe_arguments = parser.parse_args(_config_first(arguments, file))
            recipes = [recipe_arguments[positional.name] for positional in positionals if positional.recipe]
            for path in recipes:
                settings_file(kind, path)
            arguments = [*(word for path in recipes for word in (file, str(path))), *arguments]
        parsed = parser.instantiate(parser.parse_args(_config_first(_bracket_lists(kind, arguments), file)))
    except ParserError as error:
        raise UserError(f"{_one_line(error, kind)} (see {program} --help)") from error
    return [parsed[positional.name] for positional in positionals], _build(parsed, kind)


@cache  # building a parser is as slow as using it
def _parser_of_words(kind: type[Any], positionals: tuple[Positional, ...], file: str) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, add_help=False)
    for positional in positionals:
        parser.add_argument(positional.name, type=positional.kind, nargs=positional.nargs)
    if dataclasses.fields(kind):
        parser.add_argument(file, action="config")
        parser.add_class_arguments(kind)
    return parser


@cache
def _check_file(kind: type[Any], path: Path, _changed: int) -> None:
    settings_file(kind, path)


@cache
def _parser_of_values(kind: type[Any]) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind)
    return parser


def _empty(values: dict[str, Any], kind: type[Any]) -> str:
    """Return the name of a setting without a value (YAML's null); empty if there is none."""
    groups = {field.name: field.type for field in dataclasses.fields(kind) if dataclasses.is_dataclass(field.type)}
    for name, value in values.items():
        if value is None:
            return name
        if name in groups and (inner := _empty(value, groups[name])):  # type: ignore[arg-type]
            return f"{name}.{inner}"
    return ""


def _build(parsed: Any, kind: type[S]) -> S:
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**{name: parsed[name] for name in names})


def _config_files(arguments: Sequence[str], file: str, kind: type[Any]) -> Iterator[tuple[type[Any], Path]]:
    """Yield the files of settings among the arguments, each with its dataclass: that of all settings or of a group."""
    groups = {
        f"--{field.name}": field.type for field in dataclasses.fields(kind) if dataclasses.is_dataclass(field.type)
    }
    for argument, following in pairwise([*arguments, ""]):
        option, equals, value = argument.partition("=")
        value = value if equals else following
        if option == file and (equals or following):
            yield kind, Path(value)
        elif option in groups and value and not value.startswith("{") and Path(value).is_file():
            part = groups[option]
            assert isinstance(part, type)
            yield part, Path(value)


def _config_first(arguments: Sequence[str], file: str) -> list[str]:
    """Return the arguments with all files of settings first: in jsonargparse the last argument wins."""
    front, rest = [], list(arguments)
    while file in rest[:-1]:
        at = rest.index(file)
        front += rest[at : at + 2]
        del rest[at : at + 2]
    with_equals = [argument for argument in rest if argument.startswith(f"{file}=")]
    return [*front, *with_equals, *(argument for argument in rest if argument not in with_equals)]


def _bracket_lists(kind: type[Any], arguments: Sequence[str]) -> list[str]:
    """Return the arguments with ``--classes person,car`` written as a YAML list, ``[person, car]``."""
    lists = {f"--{field.name}" for field in dataclasses.fields(kind) if field.type == list[str]}
    bracketed: list[str] = []
    for before, argument in pairwise(["", *arguments]):
        option, equals, value = argument.partition("=")
        if before in lists and not argument.startswith(("[", "-")):
            bracketed.append(json.dumps(argument.split(",")))
        elif equals and option in lists and not value.startswith("["):
            bracketed.append(f"{option}={json.dumps(value.split(','))}")
        else:
            bracketed.append(argument)
    return bracketed


def _names(kind: type[Any], prefix: str = "", of: type | None = None) -> Iterator[str]:
    """Yield the names of all settings, or of those of one type."""
    for field in dataclasses.fields(kind):
        if of in (None, field.type):
            yield prefix + field.name
        if dataclasses.is_dataclass(field.type):
            assert isinstance(field.type, type)
            yield from _names(field.type, f"{prefix}{field.name}.", of)


def _one_line(error: Exception, kind: type[Any]) -> str:
    """Return jsonargparse's message on one line; for an unknown setting, with the most similar one that exists."""
    text = " ".join(str(error).split())
    patterns = (
        r"Group '(?P<group>[^']+)' does not accept option '(?P<name>[^']+)'",
        r"Option '(?P<name>[^']+)' is not accepted",
        r"unrecognized arguments: --(?P<name>[^\s=]+)",
    )
    for pattern in patterns:
        if match := re.search(pattern, text):
            name = ".".join(part for part in (match.groupdict().get("group"), match["name"]) if part)
            known = list(_names(kind))
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or [
                other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]
            ]
            return f"no setting is called {name}" + (f"; the nearest is {near[0]}" if near else "")
    text = re.sub(r"^Parser key \"([^\"]+)\": ", r"setting \1: ", text)
    text = re.sub(r"<class '(\w+)'>", r"\1", text)
    return re.sub(r"typing\.Literal(\[[^\]]*\])", r"one of \1", text)
