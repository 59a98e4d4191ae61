"""Tables of results: for the terminal, as CSV, Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from rich.table import Table

from pretext.errors import UserError
from transfer.bootstrap import METRIC_TITLES, Estimate
from transfer.columns import Column, ColumnCell, columns, evaluations, row_names, score_difference
from transfer.layout import Number, OutputFormat, Sheet, TableGrid, format_sheets
from transfer.long_table import column_records, make_frame, make_record
from transfer.results import Result

if TYPE_CHECKING:
    from pandas import DataFrame


class TableNetwork(NamedTuple):
    """The columns of one network."""

    modes: tuple[Column, ...]
    """Cached, augmented, or both in this order; or fine-tuned."""
    gaps: dict[str, Estimate]
    """For each row: augmented minus cached, over the seeds that have both."""

    @property
    def description(self) -> str:
        """The network, its seeds and its best stage, as a line below a table."""
        first, several = self.modes[0], len(self.modes) > 1
        seeds = dict.fromkeys(column.seeds for column in self.modes)
        words = [f"{first.first.network.kind} {first.first.network.backbone}"]
        if len(seeds) == 1:
            words.append(first.seeds)
        else:
            words += [f"{column.first.mode} {column.seeds}" for column in self.modes]
        if first.first.network.step:
            words.append(f"step {first.first.network.step:,}")
        words.append(f"seen at {first.first.view_size} px" if first.first.view_size else "seen at the images' own size")
        # Bold is lost where a table is printed to a file.
        chosen = [column for column in self.modes if column.best is not None]
        words += [f"best {f'{column.first.mode} ' if several else ''}{column.best}" for column in chosen]
        return f"{first.label}: {', '.join(words)}"


@dataclass(frozen=True, eq=False)
class Section:
    """The content of one table: results of one protocol and metric on the same data."""

    networks: tuple[TableNetwork, ...]

    @property
    def columns(self) -> list[Column]:
        """The columns of all networks."""
        return [column for network in self.networks for column in network.modes]

    @property
    def first(self) -> Result:
        """The first result; the facts that all results share are read from it."""
        return self.networks[0].modes[0].first

    @property
    def title(self) -> str:
        """The protocol, the metric and the test images."""
        return f"{self.first.protocol}: {METRIC_TITLES[self.first.metric]} {self._where}"

    @property
    def _where(self) -> str:
        return f"on {self.first.n_test:,} test images of {self.first.test}, %"

    @property
    def sheet(self) -> Sheet:
        """The table with its title and footer."""
        return Sheet(self.title, self.grid, tuple(self.footer))

    @cached_property
    def class_sheets(self) -> list[Sheet]:
        """A table for each row, with its number for each class."""
        measure = METRIC_TITLES[self.first.metric].removeprefix("mean ")
        sheets = [
            Sheet(f"{self.first.protocol}, {name}: {measure} by class {self._where}", self.class_grid(name), ())
            for name in row_names(self.columns)
        ]
        sheets[-1] = sheets[-1]._replace(footer=tuple(self.footer))
        return sheets

    def class_grid(self, name: str) -> TableGrid:
        """Return a row's number for each class, of all networks that have it; the metric is a mean over classes."""
        by_column = [(column, column.classes(name)) for column in self.columns if name in column.names]
        first = by_column[0][1]
        counts = tuple(f"{number.positives:,}" for number in first)
        cells = {self.first.counted or "": counts} | {
            self._label(column): tuple("" if number.cell is None else _to_number(number.cell) for number in numbers)
            for column, numbers in by_column
        }
        rows = zip((number.name for number in first), zip(*cells.values(), strict=True), strict=True)
        return TableGrid("class", tuple(cells), tuple(rows))

    def _label(self, column: Column) -> str:
        several = len({column.first.mode for column in self.columns}) > 1
        return f"{column.label}\n{column.first.mode}" if several else column.label

    @cached_property
    def grid(self) -> TableGrid:
        """The table: a row for each stage, a column for each network and mode, and one for their gap."""
        names = row_names(self.columns)
        cells: dict[str, list[Number | str]] = {}
        for network in self.networks:
            for column in network.modes:
                cells[self._label(column)] = [
                    _to_number(column.cells[name], best=name == column.best) if name in column.cells else ""
                    for name in names
                ]
            if network.gaps:
                gaps = [Number(network.gaps[name], signed=True) if name in network.gaps else "" for name in names]
                cells[f"{network.modes[0].label}\ngap"] = gaps
        corner = "trained" if self.first.mode == "fine-tuned" else "stage"
        return TableGrid(corner, tuple(cells), tuple(zip(names, zip(*cells.values(), strict=True), strict=True)))

    @cached_property
    def footer(self) -> list[str]:
        """The lines below the table: what the numbers depend on."""
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
        return lines + [network.description for network in self.networks]


@dataclass(frozen=True, eq=False)
class Tables:
    """Tables of results, one for each protocol, metric and data.

    Args:
        sections: the content of the tables.
        per_class: show numbers by class; all metrics are then means over classes.
    """

    sections: tuple[Section, ...]
    per_class: bool = False

    @property
    def sheets(self) -> list[Sheet]:
        """A table for each section; by class, one for each row of each section."""
        if self.per_class:
            return [sheet for section in self.sections for sheet in section.class_sheets]
        return [section.sheet for section in self.sections]

    def frame(self) -> "DataFrame":
        """Return all numbers as a long table: seeds joined; by class, a row for each class that has a number."""
        records = []
        for network in [network for section in self.sections for network in section.networks]:
            for column in network.modes:
                if not self.per_class:
                    records += column_records(column)
                    continue
                records += [
                    make_record(column, name, number.cell, **{"class": number.name, "positives": number.positives})
                    for name in column.names
                    for number in column.classes(name)
                    if number.cell is not None
                ]
            if not self.per_class:
                gaps = {name: ColumnCell(gap, None, None, None) for name, gap in network.gaps.items()}
                facts = {"mode": "augmented - cached", "best": None}
                records += [make_record(network.modes[0], name, gap, **facts) for name, gap in gaps.items()]
        return make_frame(records)

    def format(self, how: OutputFormat = "terminal") -> list[str | Table]:
        """Return lines and tables to print: see ``transfer.layout.format_sheets``."""
        return format_sheets(self.sheets, how, self.frame)


@dataclass
class TableSettings:
    """The settings of how tables of results are printed.

    Args:
        format: terminal; csv, a line for each number with all that it depends on; markdown; latex (booktabs).
        per_class: show the number of each class instead of their mean; results of top-1 accuracy, which has no numbers
            by class, are left out.
    """

    format: OutputFormat = "terminal"
    per_class: bool = False


def format_tables(results: Sequence[Result], settings: TableSettings) -> list[str | Table]:
    """Return tables of results in a format, as lines to print.

    Raises:
        UserError: as ``tables``.
    """
    return tables(results, settings.per_class).format(settings.format)


def tables(results: Sequence[Result], per_class: bool = False) -> Tables:
    """Return results as tables: one for each protocol and data, with a column for each network and mode, seeds joined.

    Args:
        results: in the order of the columns.
        per_class: show numbers by class.

    Raises:
        UserError: there is no result; seeds of one network have different rows; no result has numbers by class.
    """
    if not results:
        raise UserError("no results to show; make some with pretint probe, knn, svm or finetune")
    if per_class:
        shown = [result for result in results if result.counted is not None]
        if not shown:
            raise UserError(
                f"{results[0].file or results[0].network.name}: no numbers by class, because a result of "
                f"{METRIC_TITLES[results[0].metric]} stores only right or wrong for each image; leave out --per-class, "
                "or name result files of other metrics"
            )
        results = shown
    sections = []
    for group in evaluations(results):
        networks: dict[tuple[str, int], list[Column]] = {}
        for column in columns(group):
            networks.setdefault((column.first.network.group, column.first.view_size), []).append(column)
        drawn = []
        for of_network in networks.values():
            modes = tuple(sorted(of_network, key=lambda column: column.first.mode == "augmented"))
            gaps: dict[str, Estimate] = {}  # between the modes, on the seeds that both have
            if len(modes) > 1:
                seeds = [{(result.network.weights, result.seed): result for result in m.results} for m in modes]
                both = [seed for seed in seeds[0] if seed in seeds[1]]
                if both:
                    cached, augmented = (
                        Column(column.label, tuple(by_seed[seed] for seed in both))
                        for column, by_seed in zip(modes, seeds, strict=True)
                    )
                    names = [name for name in cached.names if name in augmented.names]
                    gaps = {name: score_difference(cached, augmented, name, name) for name in names}
            drawn.append(TableNetwork(modes, gaps))
        sections.append(Section(tuple(drawn)))
    return Tables(tuple(sections), per_class)


def _to_number(cell: ColumnCell, best: bool = False) -> Number:
    """Return the number of a cell for the layout; its spread is the one over seeds, if there are several."""
    return Number(cell.score, cell.over_samples if cell.over_seeds is None else cell.over_seeds, best=best)
