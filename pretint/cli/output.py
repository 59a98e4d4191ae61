"""The output of commands: lines and tables that are never wrapped."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from pretext.escape import escape_controls

if TYPE_CHECKING:
    from transfer.results import Result

LISTED = 20
"""The number of items that a long list shows."""
PLAIN: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True, "emoji": False}
"""Options of rich that print text unchanged."""


def say(*lines: str | Table) -> None:
    """Print lines and tables on standard output; a line is one line, whatever names it holds."""
    console = Console()
    for line in lines:  # a table is never wrapped, because a wrapped table cannot be read
        if isinstance(line, Table):
            gives_way = any(not column.no_wrap for column in line.columns)
            least = console.width if gives_way else max(console.width, line.width or 100)
            Console(width=least if console.is_terminal else 10_000).print(_Escaped(line), **PLAIN)
        else:
            console.print(escape_controls(line), **PLAIN)


def complain(*lines: str) -> None:
    """Print lines on standard error, as ``say`` does."""
    console = Console(stderr=True)
    for line in lines:
        console.print(escape_controls(line), **PLAIN)


class _Escaped:
    """A table whose cells cannot steer the terminal; rich's own colors and ends of lines stay."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.table, options):
            text = "\n".join(map(escape_controls, segment.text.split("\n")))
            yield segment if segment.control else segment._replace(text=text)


def skips(skipped: Sequence[Sequence[str]], reason: str = "skipped, because they cannot be read") -> list[str]:
    """Return lines that list the images that could not be read, or that have another fault."""
    if not skipped:
        return []
    lines = [f"  {key}: {reason}" for key, reason in skipped[:LISTED]]
    more = [f"  and {len(skipped) - LISTED} more"] if len(skipped) > LISTED else []
    return [f"{len(skipped)} {reason}:", *lines, *more]


def say_results(results: Sequence["Result"]) -> int:
    """Print tables of results, images that could not be read, and where the files are; return exit code 0."""
    from transfer.report import write_report
    from transfer.table import tables

    unread = list(dict.fromkeys(skip for result in results for skip in result.skipped))
    tuned = any(result.mode == "fine-tuned" for result in results)
    reason = "found in the images and their annotations" if tuned else "skipped, because they cannot be read"
    say(*tables(results).format(), *skips(unread, reason))
    for folder in dict.fromkeys(Path(result.file).parent for result in results):
        run = folder.parent if (folder.parent / "settings.yaml").is_file() else None
        say(f"report: {write_report(run)}" if run else f"results: {folder}")
    return 0
