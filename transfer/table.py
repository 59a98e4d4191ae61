"""Results as tables: in the terminal, as CSV, Markdown and LaTeX."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pretext.errors import UserError
from transfer.columns import Column, columns, evaluations, score_gap
from transfer.intervals import Estimate
from transfer.results import Result

WIDTH = 100
"""Columns of text that a table keeps to, where it can."""

_HEADER = [
    "network",
    "group",
    "kind",
    "step",
    "seeds",
    "evaluation_seeds",
    "stage",
    "variant",
    "mode",
    "metric",
    "value",
    "low",
    "high",
    "sd_over_seeds",
    "sd_over_samples",
    "best",
    "holdout",
    "n",
    "n_seeds",
    "dims",
    "pooling",
    "view_size",
    "protocol",
    "fraction",
    "train",
    "test",
    "train_digest",
    "test_digest",
    "split",
    "split_sha256",
    "weights",
]
_AS_THEY_ARE = (  # fields of a result that are the same for all of a column
    "mode",
    "metric",
    "view_size",
    "protocol",
    "fraction",
    "train",
    "test",
    "train_digest",
    "test_digest",
)
_LATEX = {
    **{one: f"\\{one}" for one in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the start of a row it would be an argument of the line before
    "]": "{]}",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
}


class Number(NamedTuple):
    """What stands in a cell."""

    score: Estimate
    spread: float | None = None
    """Standard deviation over seeds, or over samples of one seed."""
    best: bool = False
    signed: bool = False

    @property
    def value(self) -> str:
        """ "66.2", in percent."""
        return f"{100 * self.score.value:{'+' if self.signed else ''}.1f}"

    @property
    def interval(self) -> str:
        """ "[64.9, 67.5]"."""
        low, high = (f"{100 * edge:{'+' if self.signed else ''}.1f}" for edge in self.score[1:])
        return f"[{low}, {high}]"

    @property
    def deviation(self) -> str:
        """ " +-0.4", or nothing."""
        return "" if self.spread is None else f" +-{100 * self.spread:.1f}"


Cell = Number | str


class Grid(NamedTuple):
    """A table of whatever format: names, and a cell for each; a name may have two lines."""

    corner: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]

    def turned(self, corner: str) -> "Grid":
        """Rows as columns."""
        across = zip(*(cells for _, cells in self.rows), strict=True)
        return Grid(corner, tuple(name for name, _ in self.rows), tuple(zip(self.header, across, strict=True)))

    def part(self, start: int, end: int) -> "Grid":
        """The columns from ``start`` to before ``end``."""
        return Grid(self.corner, self.header[start:end], tuple((name, cells[start:end]) for name, cells in self.rows))


class Network(NamedTuple):
    """One network's columns."""

    modes: tuple[Column, ...]
    """Cached, augmented, or both in this order."""
    gaps: dict[str, Estimate]
    """By row: augmented minus cached, over the seeds that have both."""


@dataclass(frozen=True, eq=False)
class Section:
    """What stands in one table: results of one protocol and metric on the same data."""

    networks: tuple[Network, ...]

    @property
    def columns(self) -> list[Column]:
        """Of all networks."""
        return [column for network in self.networks for column in network.modes]

    @property
    def first(self) -> Result:
        """What all of them have in common is read from this one."""
        return self.networks[0].modes[0].first

    @property
    def title(self) -> str:
        """What is shown."""
        measure = "top-1 accuracy" if self.first.metric == "top-1" else "mean average precision"
        return f"{self.first.protocol}: {measure} on {self.first.n_test:,} test pictures of {self.first.test}, %"

    @cached_property
    def grid(self) -> Grid:
        """Rows are stages; a column for each network and mode, and one for the gap between the modes."""
        names = list(dict.fromkeys(name for column in self.columns for name in column.names))
        several = len({column.first.mode for column in self.columns}) > 1
        found: dict[str, list[Cell]] = {}
        for network in self.networks:
            for column in network.modes:
                label = f"{column.label}\n{column.first.mode}" if several else column.label
                found[label] = [_number(column, name) for name in names]
            if network.gaps:
                gaps = [Number(network.gaps[name], signed=True) if name in network.gaps else "" for name in names]
                found[f"{network.modes[0].label}\ngap"] = gaps
        return Grid("stage", tuple(found), tuple(zip(names, zip(*found.values(), strict=True), strict=True)))

    @cached_property
    def footer(self) -> list[str]:
        """What the numbers depend on."""
        first, results = self.first, [result for column in self.columns for result in column.results]
        cells = [cell for column in self.columns for cell in column.cells.values()]
        lines = [f"[..]: {first.interval}"]
        if any(cell.over_seeds is not None for cell in cells):
            lines.append("+-: standard deviation over seeds")
        if any(cell.over_seeds is None and cell.over_samples is not None for cell in cells):
            lines.append("+-: standard deviation over samples of the training pictures, where there is one seed")
        if any(network.gaps for network in self.networks):
            lines.append("gap: augmented minus cached, on the same pictures and seeds")
        used = f"labels of {first.n_fit + first.n_holdout:,} of {first.n_train:,} training pictures of {first.train}"
        if first.n_holdout:
            used += f"; {first.n_holdout:,} of them held out, which chose"
            used += (
                " settings and the best stage (bold)" if any(column.best for column in self.columns) else " settings"
            )
        splits = dict.fromkeys(f"{result.split} ({result.split_sha256[:8]})" for result in results)
        lines += [f"{first.protocol}: {first.about}", used, f"split: {'; '.join(splits)}"]
        return lines + [_described(network) for network in self.networks]


@dataclass(frozen=True, eq=False)
class Tables:
    """Tables of results, one for each protocol, metric and data."""

    sections: tuple[Section, ...]

    def terminal(self, width: int = WIDTH) -> list[str | Table]:
        """Titles, tables and what their numbers depend on.

        A table is turned, given two lines a cell, or cut into several, so that it keeps to ``width``; only one
        that has a single column may be wider. It is as wide as its text: print it with ``crop=False``.
        """
        lines: list[str | Table] = []
        for section in self.sections:
            lines += [shown(section.title), *_fitted(section.grid, width), *map(shown, section.footer)]
        return lines

    def markdown(self) -> str:
        """Pipe tables, as GitHub reads them."""
        parts = []
        for section in self.sections:
            grid = _flat(section.grid)
            head = [_in_markdown(text) for text in (grid.corner, *grid.header)]
            rows = [[_in_markdown(name), *map(_markdown_cell, cells)] for name, cells in grid.rows]
            ruler = ["---", *["---:"] * len(grid.header)]
            table = "\n".join(f"| {' | '.join(row)} |" for row in (head, ruler, *rows))
            footer = "\n".join(f"- {_in_markdown(line)}" for line in section.footer)
            parts.append(f"**{_in_markdown(section.title)}**\n\n{table}\n\n{footer}\n")
        return "\n".join(parts)

    def latex(self) -> str:
        """Tables for the package booktabs."""
        parts = []
        for section in self.sections:
            grid = _flat(section.grid)
            head = [_in_latex(text) for text in (grid.corner, *grid.header)]
            rows = [[_in_latex(name), *map(_latex_cell, cells)] for name, cells in grid.rows]
            lines = [f"    {' & '.join(row)} \\\\" for row in (head, *rows)]
            caption = " ".join(f"{_in_latex(line.rstrip('.'))}." for line in (section.title, *section.footer))
            parts.append(
                "\n".join(
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
            )
        return "\n".join(parts)

    def csv(self) -> str:
        """One line per number, with all that it depends on; numbers are fractions, not percent."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, _HEADER, lineterminator="\n")
        writer.writeheader()
        for section in self.sections:
            for network in section.networks:
                for column in network.modes:
                    writer.writerows(_records(column))
                for name, gap in network.gaps.items():
                    writer.writerow(_shared(network.modes[0], name) | {"mode": "augmented - cached"} | gap._asdict())
        return buffer.getvalue()


@dataclass
class TableSettings:
    """How results are shown.

    Args:
        format: terminal; csv, a line for each number with all that it depends on; markdown; latex (booktabs).
    """

    format: Literal["terminal", "csv", "markdown", "latex"] = "terminal"


def formatted(results: Sequence[Result], settings: TableSettings) -> list[str | Table]:
    """Tables of results in a format: lines to print."""
    found = tables(results)
    if settings.format == "terminal":
        return found.terminal()
    text: str = getattr(found, settings.format)()
    return [text.removesuffix("\n")]


def tables(results: Sequence[Result]) -> Tables:
    """Results as tables: a column for each network and mode, its seeds joined; a table for each protocol and data.

    Raises:
        UserError: there is none; seeds of one network have other rows.
    """
    if not results:
        raise UserError("no results to show; make some with pretint probe, knn or svm")
    return Tables(tuple(_section(columns(group)) for group in evaluations(results)))


def shown(text: str) -> str:
    """Text from outside without what would steer a terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def drawn(header: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Table:
    """A table exactly as wide as its text, for the terminal: the first column to the left, the others to the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for at, name in enumerate(header):
        title = Text("\n".join(map(shown, name.split("\n"))))
        table.add_column(title, justify="right" if at else "left", no_wrap=True, vertical="top")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(shown(cell)) for cell in row))
    # Without a width of its own it would be squeezed into the terminal's.
    console = Console(width=1_000_000)
    table.width = Measurement.get(console, console.options, table).maximum
    return table


def _section(found: Sequence[Column]) -> Section:
    networks: dict[tuple[str, int], list[Column]] = {}
    for column in found:
        networks.setdefault((column.first.network.group, column.first.view_size), []).append(column)
    return Section(tuple(_network(modes) for modes in networks.values()))


def _network(found: Sequence[Column]) -> Network:
    modes = sorted(found, key=lambda column: column.first.mode == "augmented")
    if len(modes) < 2:
        return Network(tuple(modes), {})
    seeds = [{(result.network.weights, result.seed): result for result in column.results} for column in modes]
    both = [seed for seed in seeds[0] if seed in seeds[1]]
    if not both:
        return Network(tuple(modes), {})
    cached, augmented = (
        Column(column.label, tuple(of[seed] for seed in both)) for column, of in zip(modes, seeds, strict=True)
    )
    names = [name for name in cached.names if name in augmented.names]
    return Network(tuple(modes), {name: score_gap(cached, augmented, name, name) for name in names})


def _described(network: Network) -> str:
    first, several = network.modes[0], len(network.modes) > 1
    seeds = dict.fromkeys(column.seeds for column in network.modes)
    words = [f"{first.first.network.kind} {first.first.network.backbone}"]
    if len(seeds) == 1:
        words.append(first.seeds)
    else:
        words += [f"{column.first.mode} {column.seeds}" for column in network.modes]
    if first.first.network.step:
        words.append(f"step {first.first.network.step:,}")
    words.append(f"seen at {first.first.view_size} px")
    # Bold is lost where a table is printed to a file.
    chosen = [column for column in network.modes if column.best is not None]
    words += [f"best {f'{column.first.mode} ' if several else ''}{column.best}" for column in chosen]
    return f"{first.label}: {', '.join(words)}"


def _number(column: Column, name: str) -> Cell:
    if name not in column.cells:
        return ""
    cell = column.cells[name]
    spread = cell.over_samples if cell.over_seeds is None else cell.over_seeds
    return Number(cell.score, spread, best=name == column.best)


def _fitted(grid: Grid, width: int) -> list[Table]:
    """As one table that keeps to the width, if there is one; else as several."""
    for tall in (False, True):
        for candidate in (grid, grid.turned("network")):
            table = _terminal_table(candidate, tall)
            if (table.width or 0) <= width:
                return [table]
    found, start = [], 0
    for end in range(1, len(grid.header) + 1):
        if end == len(grid.header) or (_terminal_table(grid.part(start, end + 1), tall=True).width or 0) > width:
            found.append(_terminal_table(grid.part(start, end), tall=True))
            start = end
    return found


def _terminal_table(grid: Grid, tall: bool) -> Table:
    def text(cell: Cell) -> str | Text:
        if isinstance(cell, str):
            return cell
        words = (
            f"{cell.value}{cell.deviation}\n{cell.interval}"
            if tall
            else f"{cell.value} {cell.interval}{cell.deviation}"
        )
        return Text(words, style="bold" if cell.best else "")

    rows = [[" ".join(name.split("\n")), *map(text, cells)] for name, cells in grid.rows]
    return drawn((grid.corner, *grid.header), rows)


def _flat(grid: Grid) -> Grid:
    """For a page: turned if it is wide and would be less so, names on one line."""
    widths = {way: _terminal_table(way, tall=False).width or 0 for way in (grid, grid.turned("network"))}
    best = grid if widths[grid] <= WIDTH else min(widths, key=widths.__getitem__)
    rows = tuple((name.replace("\n", ", "), cells) for name, cells in best.rows)
    return Grid(best.corner, tuple(name.replace("\n", ", ") for name in best.header), rows)


def _markdown_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    value = f"**{cell.value}**" if cell.best else cell.value
    return f"{value} {cell.interval}{cell.deviation}"


def _latex_cell(cell: Cell) -> str:
    if isinstance(cell, str):
        return cell
    value = rf"\textbf{{{cell.value}}}" if cell.best else cell.value
    deviation = cell.deviation.replace("+-", r"$\pm$")
    return rf"{value} {{\scriptsize {cell.interval}{deviation}}}".replace("-", "$-$")


def _in_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", shown(text))


def _in_latex(text: str) -> str:
    return "".join(_LATEX.get(one, one) for one in shown(text).replace("+-", "\N{PLUS-MINUS SIGN}"))


def _records(column: Column) -> list[dict[str, object]]:
    return [
        _shared(column, name)
        | cell.score._asdict()
        | {
            "sd_over_seeds": cell.over_seeds,
            "sd_over_samples": cell.over_samples,
            "best": name == column.best,
            "holdout": cell.holdout,
        }
        for name, cell in column.cells.items()
    ]


def _shared(column: Column, name: str) -> dict[str, object]:
    """What a line of the CSV says besides its number."""
    first, row = column.first, column.first.row(name)

    def joined(values: Iterable[object]) -> str:
        return ";".join(dict.fromkeys(map(str, values)))

    return {
        "network": column.label,
        "group": first.network.group,
        "kind": first.network.kind,
        "step": first.network.step,
        "seeds": joined(result.network.seed for result in column.results),
        "evaluation_seeds": joined(result.seed for result in column.results),
        "stage": row.stage,
        "variant": row.variant,
        "dims": row.dims,
        "pooling": row.pooling,
        "n": first.n_test,
        "n_seeds": len(column.results),
        "weights": joined(result.network.weights for result in column.results),
        "split": joined(result.split for result in column.results),
        "split_sha256": joined(result.split_sha256 for result in column.results),
        **{name: getattr(first, name) for name in _AS_THEY_ARE},
    }
