"""Results as tables: in the terminal, as CSV, Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from rich.table import Table

from pretext.errors import UserError
from transfer.bootstrap import MEASURES, Estimate
from transfer.columns import Cell, Column, columns, evaluations, row_names, score_gap
from transfer.layout import WIDTH, Grid, Number, Sheet
from transfer.records import csv_of, csv_of_classes
from transfer.results import Result


class Network(NamedTuple):
    """One network's columns."""

    modes: tuple[Column, ...]
    """Cached, augmented, or both in this order; or fine-tuned."""
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
        return f"{self.first.protocol}: {MEASURES[self.first.metric]} {self._where}"

    @property
    def _where(self) -> str:
        return f"on {self.first.n_test:,} test images of {self.first.test}, %"

    @property
    def sheet(self) -> Sheet:
        """As one table."""
        return Sheet(self.title, self.grid, tuple(self.footer))

    @cached_property
    def class_sheets(self) -> list[Sheet]:
        """A table for each row: its number by class."""
        measure = MEASURES[self.first.metric].removeprefix("mean ")
        sheets = [
            Sheet(f"{self.first.protocol}, {name}: {measure} by class {self._where}", self.class_grid(name), ())
            for name in row_names(self.columns)
        ]
        sheets[-1] = sheets[-1]._replace(footer=tuple(self.footer))
        return sheets

    def class_grid(self, name: str) -> Grid:
        """The number of a row, of all networks that have it, by class; the metric is a mean over classes."""
        of_row = [(column, column.classes(name)) for column in self.columns if name in column.names]
        first = of_row[0][1]
        counts = tuple(f"{each.positives:,}" for each in first)
        found = {self.first.counted or "": counts} | {
            self._label(column): tuple("" if c.cell is None else _shown(c.cell) for c in each)
            for column, each in of_row
        }
        rows = zip((each.name for each in first), zip(*found.values(), strict=True), strict=True)
        return Grid("class", tuple(found), tuple(rows))

    def _label(self, column: Column) -> str:
        several = len({column.first.mode for column in self.columns}) > 1
        return f"{column.label}\n{column.first.mode}" if several else column.label

    @cached_property
    def grid(self) -> Grid:
        """Rows are stages; a column for each network and mode, and one for the gap between the modes."""
        names = row_names(self.columns)
        found: dict[str, list[Number | str]] = {}
        for network in self.networks:
            for column in network.modes:
                found[self._label(column)] = [_number(column, name) for name in names]
            if network.gaps:
                gaps = [Number(network.gaps[name], signed=True) if name in network.gaps else "" for name in names]
                found[f"{network.modes[0].label}\ngap"] = gaps
        corner = "trained" if self.first.mode == "fine-tuned" else "stage"
        return Grid(corner, tuple(found), tuple(zip(names, zip(*found.values(), strict=True), strict=True)))

    @cached_property
    def footer(self) -> list[str]:
        """What the numbers depend on."""
        first, results = self.first, [result for column in self.columns for result in column.results]
        cells = [cell for column in self.columns for cell in column.cells.values()]
        lines = [f"[..]: {first.interval}"]
        if any(cell.over_seeds is not None for cell in cells):
            lines.append("+-: standard deviation over seeds")
        if any(cell.over_seeds is None and cell.over_samples is not None for cell in cells):
            lines.append("+-: standard deviation over samples of the training images, where there is one seed")
        if any(network.gaps for network in self.networks):
            lines.append("gap: augmented minus cached, on the same images and seeds")
        used = f"labels of {first.n_fit + first.n_holdout:,} of {first.n_train:,} training images of {first.train}"
        if first.n_holdout:
            used += f"; {first.n_holdout:,} of them held out, which "
            if first.mode == "fine-tuned":
                used += "were only looked at: nothing is chosen"
            else:
                best = any(column.best for column in self.columns)
                used += "chose settings and the best stage (bold)" if best else "chose settings"
        shared = max(result.n_shared for result in results)
        if shared:
            used += f"; test images that are also training images: {shared:,}"
        splits = dict.fromkeys(f"{result.split} ({result.split_sha256[:8]})" for result in results)
        lines += [f"{first.protocol}: {first.about}", used, f"split: {'; '.join(splits)}"]
        return lines + [_described(network) for network in self.networks]


@dataclass(frozen=True, eq=False)
class Tables:
    """Tables of results, one for each protocol, metric and data.

    Args:
        sections: what is shown.
        per_class: whether by class; the sections are then of metrics that are means over classes.
    """

    sections: tuple[Section, ...]
    per_class: bool = False

    @property
    def sheets(self) -> list[Sheet]:
        """One for each section, or for each of its rows."""
        if self.per_class:
            return [sheet for section in self.sections for sheet in section.class_sheets]
        return [section.sheet for section in self.sections]

    def terminal(self, width: int = WIDTH) -> list[str | Table]:
        """Titles, tables and what their numbers depend on.

        A table is turned, given two lines a cell, or cut into several, so that it keeps to ``width``; only one
        that has a single column may be wider. It is as wide as its text: print it with ``crop=False``.
        """
        return [line for sheet in self.sheets for line in sheet.terminal(width)]

    def markdown(self) -> str:
        """Pipe tables, as GitHub reads them."""
        return "\n".join(sheet.markdown() for sheet in self.sheets)

    def latex(self) -> str:
        """Tables for the package booktabs."""
        return "\n".join(sheet.latex() for sheet in self.sheets)

    def csv(self) -> str:
        """One line per number, with all that it depends on; numbers are fractions, not percent."""
        if self.per_class:
            return csv_of_classes([column for section in self.sections for column in section.columns])
        return csv_of([(network.modes, network.gaps) for section in self.sections for network in section.networks])


@dataclass
class TableSettings:
    """How results are shown.

    Args:
        format: terminal; csv, a line for each number with all that it depends on; markdown; latex (booktabs).
        per_class: show the number of each class instead of their mean; results of top-1, which has none, are left out.
    """

    format: Literal["terminal", "csv", "markdown", "latex"] = "terminal"
    per_class: bool = False


def formatted(results: Sequence[Result], settings: TableSettings) -> list[str | Table]:
    """Tables of results in a format: lines to print.

    Raises:
        UserError: as ``tables``.
    """
    found = tables(results, settings.per_class)
    if settings.format == "terminal":
        return found.terminal()
    text: str = getattr(found, settings.format)()
    return list(text.removesuffix("\n").split("\n"))


def tables(results: Sequence[Result], per_class: bool = False) -> Tables:
    """Results as tables: a column for each network and mode, its seeds joined; a table for each protocol and data.

    Args:
        results: in the order of the columns.
        per_class: whether by class.

    Raises:
        UserError: there is none; seeds of one network have other rows; none has numbers by class.
    """
    if not results:
        raise UserError("no results to show; make some with pretint probe, knn, svm or finetune")
    if per_class:
        shown = [result for result in results if result.counted is not None]
        if not shown:
            raise UserError(
                f"{results[0].file or results[0].network.name}: no numbers by class, as only right or wrong is kept of "
                f"{MEASURES[results[0].metric]}; leave out --per-class, or name result files of other metrics"
            )
        results = shown
    return Tables(tuple(_section(columns(group)) for group in evaluations(results)), per_class)


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
    words.append(f"seen at {first.first.view_size} px" if first.first.view_size else "seen at the images' own size")
    # Bold is lost where a table is printed to a file.
    chosen = [column for column in network.modes if column.best is not None]
    words += [f"best {f'{column.first.mode} ' if several else ''}{column.best}" for column in chosen]
    return f"{first.label}: {', '.join(words)}"


def _number(column: Column, name: str) -> Number | str:
    return _shown(column.cells[name], best=name == column.best) if name in column.cells else ""


def _shown(cell: Cell, best: bool = False) -> Number:
    return Number(cell.score, cell.over_samples if cell.over_seeds is None else cell.over_seeds, best=best)
