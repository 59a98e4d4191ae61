"""Layout of a table of any numbers: in the terminal, as Markdown and as LaTeX."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pretext.escape import csv_text, escape_controls
from transfer.bootstrap import Estimate

if TYPE_CHECKING:
    from pandas import DataFrame

OutputFormat = Literal["terminal", "csv", "markdown", "latex"]
"""csv: a line for each number with all that it depends on; latex: for the package booktabs."""

WIDTH = 100
"""The preferred width of a table in columns of text."""

_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the start of a row, LaTeX would read it as an argument of the line before
    "]": "{]}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
}


class Number(NamedTuple):
    """A number in a cell."""

    score: Estimate
    spread: float | None = None
    """Standard deviation over seeds, or over samples of one seed."""
    best: bool = False
    signed: bool = False
    scale: float = 100
    """The factor by which it is multiplied when shown: 100 for percent."""
    digits: int = 1

    @property
    def value(self) -> str:
        """ "66.2", in percent."""
        return self._shown(self.score.value)

    @property
    def interval(self) -> str:
        """ "[64.9, 67.5]"."""
        low, high = map(self._shown, self.score[1:])
        return f"[{low}, {high}]"

    @property
    def deviation(self) -> str:
        """ " +-0.4", or nothing."""
        return "" if self.spread is None else f" +-{self.scale * self.spread:.{self.digits}f}"

    @property
    def text(self) -> str:
        """All of it, on one line."""
        return f"{self.value} {self.interval}{self.deviation}"

    def _shown(self, number: float) -> str:
        return f"{self.scale * number:{'+' if self.signed else ''}.{self.digits}f}"


TableCell = Number | str
"""The content of a cell."""


class TableGrid(NamedTuple):
    """A table before it has a format: names and cells; a name may have two lines."""

    corner: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[TableCell, ...]], ...]
    across: str = "network"
    """The name of its columns; the corner of the transposed table."""
    turns: bool = True
    """Whether it may be transposed to be narrower on a page; the terminal always may."""

    def turned(self) -> "TableGrid":
        """Return the transposed table."""
        across = zip(*(cells for _, cells in self.rows), strict=True)
        header = tuple(name for name, _ in self.rows)
        return TableGrid(self.across, header, tuple(zip(self.header, across, strict=True)), self.corner)

    def flat(self) -> "TableGrid":
        """Return the table for a page: transposed if it is wide and gets narrower so, names on one line."""
        grids = (self, self.turned()) if self.turns else (self,)
        widths = {grid: _terminal_table(grid, tall=False).width or 0 for grid in grids}
        best = self if widths[self] <= WIDTH else min(widths, key=widths.__getitem__)
        rows = tuple((name.replace("\n", ", "), cells) for name, cells in best.rows)
        return best._replace(header=tuple(name.replace("\n", ", ") for name in best.header), rows=rows)

    def part(self, start: int, end: int) -> "TableGrid":
        """Return the columns from ``start`` to before ``end``."""
        rows = tuple((name, cells[start:end]) for name, cells in self.rows)
        return self._replace(header=self.header[start:end], rows=rows)


class Sheet(NamedTuple):
    """A table with its title and the lines below it."""

    title: str
    grid: TableGrid
    footer: tuple[str, ...]

    def terminal(self, width: int) -> list[str | Table]:
        """Return lines for the terminal: see ``format_sheets``."""
        grid, title, footer = self.grid, escape_controls(self.title), [*map(escape_controls, self.footer)]
        for tall in (False, True):
            for candidate in (grid, grid.turned()):
                table = _terminal_table(candidate, tall)
                if (table.width or 0) <= width:
                    return [title, table, *footer]
        # If no form fits the width, print several tables, each with as many columns as fit.
        parts, start = [], 0
        for end in range(1, len(grid.header) + 1):
            if end == len(grid.header) or (_terminal_table(grid.part(start, end + 1), tall=True).width or 0) > width:
                parts.append(_terminal_table(grid.part(start, end), tall=True))
                start = end
        return [title, *parts, *footer]

    def markdown(self) -> str:
        """Return a pipe table, as GitHub reads it."""
        head, *rows = self._texts(
            _in_markdown, lambda cell: cell.text.replace(cell.value, f"**{cell.value}**", 1) if cell.best else cell.text
        )
        ruler = ["---", *["---:"] * (len(head) - 1)]
        table = "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *rows))
        parts = [f"**{_in_markdown(self.title)}**", table, "\n".join(f"- {_in_markdown(line)}" for line in self.footer)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def latex(self) -> str:
        """Return a table for the LaTeX package booktabs."""

        def show(cell: Number) -> str:
            value = rf"\textbf{{{cell.value}}}" if cell.best else cell.value
            deviation = cell.deviation.replace("+-", r"$\pm$")
            return rf"{value} {{\scriptsize {cell.interval}{deviation}}}".replace("-", "$-$")

        head, *rows = (f"    {' & '.join(row)} \\\\" for row in self._texts(_in_latex, show))
        caption = " ".join(f"{_in_latex(line.rstrip('.'))}." for line in (self.title, *self.footer))
        return "\n".join(
            (
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{caption}}}",
                rf"  \begin{{tabular}}{{l{'r' * len(self.grid.flat().header)}}}",
                r"    \toprule",
                head,
                r"    \midrule",
                *rows,
                r"    \bottomrule",
                r"  \end{tabular}",
                r"\end{table}",
                "",
            )
        )

    def _texts(self, escape: Callable[[str], str], show: Callable[[Number], str]) -> list[list[str]]:
        """Return the table for a page as text, its header first."""
        grid = self.grid.flat()
        rows = [(grid.corner, grid.header), *grid.rows]
        return [
            [escape(name), *(escape(cell) if isinstance(cell, str) else show(cell) for cell in cells)]
            for name, cells in rows
        ]


def format_sheets(
    sheets: Sequence[Sheet], how: OutputFormat, frame: Callable[[], "DataFrame"], width: int = WIDTH
) -> list[str | Table]:
    """Return lines and tables to print.

    Args:
        sheets: the tables.
        how: the format.
        frame: returns all numbers as a long table, for CSV.
        width: in the terminal, a table that is wider is transposed, gets two lines per cell, or is cut into several;
            only a table of a single column may stay wider. It is as wide as its text: print it with ``crop=False``.
    """
    if how == "terminal":
        return [line for sheet in sheets for line in sheet.terminal(width)]
    text = frame_csv(frame()) if how == "csv" else "\n".join(getattr(sheet, how)() for sheet in sheets)
    return list(text.removesuffix("\n").split("\n"))


def frame_csv(frame: "DataFrame") -> str:
    """Return a table as CSV; a missing value is an empty cell, and no text is a formula for a spreadsheet."""
    plain = frame.astype(object).where(frame.notna(), None)
    return csv_text(list(plain), plain.itertuples(index=False, name=None))


def draw_table(header: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """Return a table exactly as wide as its text: the first column aligned to the left, the others to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for at, name in enumerate(header):
        title = Text("\n".join(map(escape_controls, name.split("\n"))))
        table.add_column(title, justify="right" if at else "left", no_wrap=True, vertical="top")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(escape_controls(cell)) for cell in row))
    # Without this width, rich would squeeze the table into the width of the terminal.
    console = Console(width=1_000_000)
    table.width = Measurement.get(console, console.options, table).maximum
    return table


def _terminal_table(grid: TableGrid, tall: bool) -> Table:
    def text(cell: TableCell) -> str | Text:
        if isinstance(cell, str):
            return cell
        words = f"{cell.value}{cell.deviation}\n{cell.interval}" if tall else cell.text
        return Text(words, style="bold" if cell.best else "")

    rows = [[" ".join(name.split("\n")), *map(text, cells)] for name, cells in grid.rows]
    return draw_table((grid.corner, *grid.header), rows)


def _in_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", escape_controls(text))


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in escape_controls(text).replace("+-", "\N{PLUS-MINUS SIGN}"))
