"""The arguments of a command: parsed before the command runs, or only parsed."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from pretext.settings import Parsed, Positional, parse_command

Command = Callable[[Sequence[str]], int]
"""A function of a command's words that returns its exit code."""
S = TypeVar("S")

_ONLY_READ: ContextVar[bool] = ContextVar("_ONLY_READ", default=False)


@dataclass
class NoSettings:
    """No settings."""


class _Read(Exception):
    """The parsed arguments of a command; raised instead of running it."""

    def __init__(self, positionals: list[Any], settings: Any) -> None:
        self.words = positionals, settings


def name_of(command: Command) -> str:
    """Return the name of a command, as it is typed."""
    return command.__name__.rstrip("_")  # "import" is a word of Python's


def read(
    command: Command,
    kind: type[S],
    positionals: Sequence[Positional],
    arguments: Sequence[str],
    check: Callable[[list[Any], S], object] | None = None,
) -> Parsed[S]:
    """Return the positional arguments and settings of a command.

    Args:
        command: the help shows its name and docstring.
        kind: dataclass of its settings.
        positionals: its positional arguments.
        arguments: the words after its name.
        check: called with the positional arguments and the settings, also if the command will run on another machine;
            it raises UserError if an input that has no default is missing.

    Raises:
        UserError: an argument is wrong.
        SystemExit: an argument requested help, which was printed.
    """
    parsed = parse_command(f"pretint {name_of(command)}", command.__doc__ or "", kind, positionals, arguments)
    return understood(parsed, check)


def understood(parsed: Parsed[S], check: Callable[[list[Any], S], object] | None = None) -> Parsed[S]:
    """Check parsed arguments as ``read`` does; if arguments are only parsed, stop there."""
    if check:
        check(*parsed)
    if _ONLY_READ.get():
        raise _Read(*parsed)
    return parsed


def only_read(command: Command, arguments: Sequence[str]) -> tuple[list[Any], Any]:
    """Return the positional arguments and settings of a command, without doing it.

    Raises:
        UserError: a mistake in them.
    """
    before = _ONLY_READ.set(True)
    try:
        command(arguments)
    except _Read as parsed:
        return parsed.words
    finally:
        _ONLY_READ.reset(before)
    raise AssertionError("a command reads its words first")
