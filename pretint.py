"""The front door: one command per job, nothing else in it."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from pretext.errors import UserError

RUN = "the run's directory, such as runs/first"


def pretrain(arguments: Sequence[str]) -> int:
    """Learn features from unlabelled pictures, by colorization."""
    from pretext.pretrain import pretrain as job
    from pretext.recipe import PretrainSettings
    from pretext.settings import Positional, parse_command

    (run,), settings = parse_command("pretint pretrain", _about(pretrain), PretrainSettings, [Positional("run", RUN)], arguments)
    return 0 if job(run, settings) else 130


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"pretrain": pretrain}


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return COMMANDS[words[0]](words[1:])
    except UserError as error:
        print(f"pretint: {error}", file=sys.stderr)
        return 2

def _about(command): return command.__doc__

if __name__ == "__main__":
    sys.exit(main())
