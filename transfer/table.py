"""Tables of results: for the terminal, as CSV, Markdown and LaTeX."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from rich.table import Table

from pretext.errors import UserError
from pretext.escape import csv_text
from transfer.bootstrap import METRIC_TITLES, Estimate
from transfer.columns import Column, ColumnCell, columns, evaluations, row_names, score_difference
from transfer.layout import WIDTH, Number, Sheet, TableGrid
from transfer.results import Result

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
    "n_shared",
]
_SHARED = (  # fields that are equal in all results of a column
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
_CLASS_HEADER = ["class", "positives"]  # additional columns of tables by class


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

    def terminal(self, width: int = WIDTH) -> list[str | Table]:
        """Return titles, tables and what their numbers depend on, as lines to print.

        A table that is wider than ``width`` is transposed, gets two lines per cell, or is cut into several; only a
        table of a single column may stay wider. It is as wide as its text: print it with ``crop=False``.
        """
        return [line for sheet in self.sheets for line in sheet.terminal(width)]

    def markdown(self) -> str:
        """Return pipe tables, as GitHub reads them."""
        return "\n".join(sheet.markdown() for sheet in self.sheets)

    def latex(self) -> str:
        """Return tables for the LaTeX package booktabs."""
        return "\n".join(sheet.latex() for sheet in self.sheets)

    def csv(self) -> str:
        """Return one line per number, with all that the number depends on; numbers are fractions, not percent."""
        header, lines = list(_HEADER), []
        for network in [network for section in self.sections for network in section.networks]:
            for column in network.modes:
                if not self.per_class:
                    lines += [_csv_line(column, name, cell) for name, cell in column.cells.items()]
                    continue
                for name in column.names:
                    for number in column.classes(name):
                        if number.cell is not None:  # a class without a number has no line
                            facts = {"class": number.name, "positives": number.positives}
                            lines.append(_csv_line(column, name, number.cell) | facts)
            if not self.per_class:
                for name, gap in network.gaps.items():
                    lines.append(_csv_line(network.modes[0], name) | {"mode": "augmented - cached"} | gap._asdict())
        if self.per_class:
            at = header.index("value")
            header[at:at] = _CLASS_HEADER
        return csv_text(header, ([line.get(name) for name in header] for line in lines))


@dataclass
class TableSettings:
    """The settings of how tables of results are printed.

    Args:
        format: terminal; csv, a line for each number with all that it depends on; markdown; latex (booktabs).
        per_class: show the number of each class instead of their mean; results of top-1 accuracy, which has no numbers
            by class, are left out.
    """

    format: Literal["terminal", "csv", "markdown", "latex"] = "terminal"
    per_class: bool = False


def format_tables(results: Sequence[Result], settings: TableSettings) -> list[str | Table]:
    """Return tables of results in a format, as lines to print.

    Raises:
        UserError: as ``tables``.
    """
    shown = tables(results, settings.per_class)
    if settings.format == "terminal":
        return shown.terminal()
    text: str = getattr(shown, settings.format)()
    return list(text.removesuffix("\n").split("\n"))


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


def _csv_line(column: Column, name: str, cell: ColumnCell | None = None) -> dict[str, object]:
    """Return the CSV line of a row of a column, by the names of the header; with the number of ``cell``, if given."""
    first, row = column.first, column.first.row(name)

    def join(values: Iterable[object]) -> str:
        return ";".join(dict.fromkeys(map(str, values)))

    line: dict[str, object] = {
        "network": column.label,
        "group": first.network.group,
        "kind": first.network.kind,
        "step": first.network.step,
        "seeds": join(result.network.seed for result in column.results),
        "evaluation_seeds": join(result.seed for result in column.results),
        "stage": row.stage,
        "variant": row.variant,
        "dims": row.dims,
        "pooling": row.pooling,
        "n": first.n_test,
        "n_shared": max(result.n_shared for result in column.results),
        "n_seeds": len(column.results),
        "weights": join(result.network.weights for result in column.results),
        "split": join(result.split for result in column.results),
        "split_sha256": join(result.split_sha256 for result in column.results),
        **{field: getattr(first, field) for field in _SHARED},
    }
    if cell is not None:
        line |= cell.score._asdict() | {
            "sd_over_seeds": cell.over_seeds,
            "sd_over_samples": cell.over_samples,
            "holdout": cell.holdout,
            "best": name == column.best,
        }
    return line
