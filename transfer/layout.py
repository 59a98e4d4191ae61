"""Layout of a table of any numbers: in the terminal, as Markdown and as LaTeX."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pretext.escape import escape_controls
from transfer.bootstrap import Estimate

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
        """Return lines for the terminal: see ``transfer.table.Tables.terminal``."""
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
        grid = self.grid.flat()
        head = [_in_markdown(text) for text in (grid.corner, *grid.header)]
        rows = []
        for name, cells in grid.rows:
            rows.append([_in_markdown(name)])
            for cell in cells:
                if isinstance(cell, str):
                    rows[-1].append(_in_markdown(cell))
                    continue
                value = f"**{cell.value}**" if cell.best else cell.value
                rows[-1].append(f"{value} {cell.interval}{cell.deviation}")
        ruler = ["---", *["---:"] * len(grid.header)]
        table = "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *rows))
        parts = [f"**{_in_markdown(self.title)}**", table, "\n".join(f"- {_in_markdown(line)}" for line in self.footer)]
        return "\n\n".join(part for part in parts if part) + "\n"

    def latex(self) -> str:
        """Return a table for the LaTeX package booktabs."""
        grid = self.grid.flat()
        head = [_in_latex(text) for text in (grid.corner, *grid.header)]
        rows = []
        for name, cells in grid.rows:
            rows.append([_in_latex(name)])
            for cell in cells:
                if isinstance(cell, str):
                    rows[-1].append(_in_latex(cell))
                    continue
                value = rf"\textbf{{{cell.value}}}" if cell.best else cell.value
                deviation = cell.deviation.replace("+-", r"$\pm$")
                rows[-1].append(rf"{value} {{\scriptsize {cell.interval}{deviation}}}".replace("-", "$-$"))
        lines = [f"    {' & '.join(row)} \\\\" for row in (head, *rows)]
        caption = " ".join(f"{_in_latex(line.rstrip('.'))}." for line in (self.title, *self.footer))
        return "\n".join(
            (
                r"\begin{table}",
                r"  \centering",
                rf"  \caption{{{caption}}}",
                rf"  \begin{{tabular}}{{l{'r' * len(grid.header)}}}",
                r"    \toprule",
                lines[0],
                r"    \midrule",
                *lines[1:],
                r"    \bottomrule",
                r"  \end{tabular}",
                r"\end{table}",
                "",
            )
        )


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
        words = (
            f"{cell.value}{cell.deviation}\n{cell.interval}"
            if tall
            else f"{cell.value} {cell.interval}{cell.deviation}"
        )
        return Text(words, style="bold" if cell.best else "")

    rows = [[" ".join(name.split("\n")), *map(text, cells)] for name, cells in grid.rows]
    return draw_table((grid.corner, *grid.header), rows)


def _in_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#~&$])", r"\\\1", escape_controls(text))


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in escape_controls(text).replace("+-", "\N{PLUS-MINUS SIGN}"))
