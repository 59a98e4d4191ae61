"""Text from outside (names of files, classes and runs, messages with them), made harmless where it is shown."""

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@")  # what a spreadsheet's formula begins with
_BEFORE = ("\t", "\r", "\n")  # what some spreadsheets skip before one


def escape_controls(text: str) -> str:
    r"""Return text without what would steer a terminal or turn the direction of writing: such characters read \x1b, \n.

    Spaces of every width stay, and so do letters of every script.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or unicodedata.category(character) == "Zs" else ascii(character)[1:-1]
        for character in text
    )


def csv_text(header: Sequence[str], rows: Iterable[Sequence[object]], end: str = "\n") -> str:
    """Return a table as CSV in which no text begins as a spreadsheet's formula does: it gets a ' in front.

    Names stay as they are otherwise; who prints the text escapes what steers a terminal.

    Args:
        header: names of the columns.
        rows: their cells; numbers stay as they are, also negative ones. None is an empty cell.
        end: of a line.
    """
    lines = []
    for row in (header, *rows):
        harmless = [
            f"'{cell}"
            if isinstance(cell, str) and (cell.startswith(_BEFORE) or cell.lstrip().startswith(_FORMULA))
            else cell
            for cell in row
        ]
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\r\n").writerow(harmless)  # quotes both in a cell
        lines.append(buffer.getvalue().removesuffix("\r\n"))
    return "".join(f"{line}{end}" for line in lines)
