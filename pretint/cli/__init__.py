"""The command line."""

import contextlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pretext.errors import RankGone, ReportedElsewhere, UserError
from pretext.plugins import load_plugins
from pretint.cli.commands import JOBS
from pretint.cli.output import complain, say
from pretint.cli.submit import jobs, submit
from pretint.commands import COMMANDS, GROUPS, find_command, read_call, tasks

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done; 1 some images could not be colored; 2 the user's mistake (one line on standard error).
        If the command stopped and can continue: 75 by USR2 or because another process of the run ended, 130 by Ctrl-C,
        143 by TERM.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        return _run(words)
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


def _run(words: Sequence[str]) -> int:
    if words[0] in ("-h", "--help"):
        say("usage: pretint COMMAND [--help | ...]")
        for group, title in GROUPS.items():
            say("", f"{title}:")
            say(*(f"  {one.name:10}{one.about}" for one in COMMANDS.values() if one.group == group))
        return 0
    if words[0] == "--version":
        say(f"pretint {version('pretint')}")
        return 0
    if words[0] in COMMANDS:
        load_plugins()
    if words[0] == "submit":
        return submit(words[1:])
    if words[0] == "jobs":
        return jobs(words[1:])
    command, rest = find_command(words)
    if command.name == "finetune":  # without a task
        say("usage: pretint finetune TASK NETWORK ... [--help | ...]", "")
        say(*(f"  {name:10}{task.about}" for name, task in tasks().items()))
        raise SystemExit(0)
    call = command.parse(rest)
    if command.name == "run":
        call = read_call(call.positionals[0])
        if not call.command.sendable:
            raise UserError(f"{call.line}: {call.command.name} cannot be run from a file; type the command")
    return JOBS[call.command.name.split()[0]](call)
