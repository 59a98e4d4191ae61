"""The words of a command: read, and then done; or only read."""

from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from pretext.settings import Parsed, Positional, parse_command

Command = Callable[[Sequence[str]], int]
"""Its words in, its exit code out."""
S = TypeVar("S")

_ONLY_READ: ContextVar[bool] = ContextVar("_ONLY_READ", default=False)


@dataclass
class NoSettings:
    """Nothing can be set."""


class _Read(Exception):
    """A command's words, understood; raised in place of doing it."""

    def __init__(self, positionals: list[Any], settings: Any) -> None:
        self.words = positionals, settings


def name_of(command: Command) -> str:
    """As it is typed."""
    return command.__name__.rstrip("_")  # "import" is a word of Python's


def read(
    command: Command,
    kind: type[S],
    positionals: Sequence[Positional],
    arguments: Sequence[str],
    check: Callable[[list[Any], S], object] | None = None,
) -> Parsed[S]:
    """The positional arguments and settings that a command was given.

    Args:
        command: its name and docstring are those of the help.
        kind: dataclass of its settings.
        positionals: what is named without an option.
        arguments: its words.
        check: called with the positional arguments and the settings, also where the command will run elsewhere: it
            raises UserError if an input that has no default is missing.

    Raises:
        UserError: they are not as they should be.
        SystemExit: they asked for help, which was shown.
    """
    parsed = parse_command(f"pretint {name_of(command)}", command.__doc__ or "", kind, positionals, arguments)
    return understood(parsed, check)


def understood(parsed: Parsed[S], check: Callable[[list[Any], S], object] | None = None) -> Parsed[S]:
    """What was parsed, checked as of ``read``; where words are only read, no further."""
    if check:
        check(*parsed)
    if _ONLY_READ.get():
        raise _Read(*parsed)
    return parsed


def only_read(command: Command, arguments: Sequence[str]) -> tuple[list[Any], Any]:
    """What a command makes of its words, without doing it: positional arguments and settings.

    Raises:
        UserError: a mistake in them.
    """
    before = _ONLY_READ.set(True)
    try:
        command(arguments)
    except _Read as found:
        return found.words
    finally:
        _ONLY_READ.reset(before)
    raise AssertionError("a command reads its words first")
