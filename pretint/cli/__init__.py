"""The command line."""

import contextlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version

from pretext.errors import RankGone, ReportedElsewhere, UserError
from pretext.plugins import load_plugins
from pretint.cli import commands
from pretint.cli.output import complain, say
from pretint.cli.parser import Command
from pretint.cli.study import study
from pretint.cli.submit import jobs, submit

__all__ = ["COMMANDS", "main"]

COMMANDS: dict[str, Command] = {**commands.COMMANDS, "study": study, "submit": submit, "jobs": jobs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done; 1 some images could not be colored; 2 the user's mistake (one line on standard error).
        If the command stopped and can continue: 75 by USR2 or because another process of the run ended, 130 by Ctrl-C,
        143 by TERM.
    """
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        if name in COMMANDS:
            load_plugins()
            return COMMANDS[name](rest)
        if name in ("-h", "--help"):
            say(
                "usage: pretint COMMAND [--help | ...]",
                "",
                *(f"  {key:10}{job.__doc__}" for key, job in COMMANDS.items()),
            )
            return 0
        if name == "--version":
            say(f"pretint {version('pretint')}")
            return 0
        near = get_close_matches(name, COMMANDS, n=1)
        raise UserError(f"no command is called {name}; {f'did you mean {near[0]}?' if near else 'see pretint --help'}")
    except ReportedElsewhere:
        return 2
    except (UserError, OSError) as error:  # an OSError: the disk of the output is full, a name is too long, ...
        with contextlib.suppress(OSError):
            complain(f"pretint: {error}")
        return 75 if isinstance(error, RankGone) else 2
    except (MemoryError, RuntimeError) as error:
        from pretext.engine.memory import describe_memory_shortage, is_memory_shortage  # with torch

        if not is_memory_shortage(error):
            raise
        complain(f"pretint: {describe_memory_shortage(error)}; end other programs, or use a machine with more memory")
        return 2
    except KeyboardInterrupt:
        complain("pretint: stopped at once; run the same command again to continue, if the command can")
        return 130
