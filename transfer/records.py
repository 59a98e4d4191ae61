"""Results as lines of a CSV file: each number with all that it depends on."""

from collections.abc import Iterable, Sequence

from pretext.escape import csv_text
from transfer.bootstrap import Estimate
from transfer.columns import Cell, Column

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


_OF_CLASSES = ["class", "positives"]  # besides, in tables by class


def csv_of(networks: Sequence[tuple[Sequence[Column], dict[str, Estimate]]]) -> str:
    """One line per number; numbers are fractions, not percent.

    Args:
        networks: of each its columns, and by row the gap between the two that there may be.
    """
    lines: list[dict[str, object]] = []
    for columns, gaps in networks:
        for column in columns:
            for name, cell in column.cells.items():
                lines.append(_said(column, name) | _number(column, name, cell))
        for name, gap in gaps.items():
            lines.append(_said(columns[0], name) | {"mode": "augmented - cached"} | gap._asdict())
    return _written(lines, _HEADER)


def csv_of_classes(columns: Sequence[Column]) -> str:
    """As ``csv_of``, one line for each class; those without a number have no line."""
    lines: list[dict[str, object]] = []
    for column in columns:
        for name in column.names:
            for each in column.classes(name):
                if each.cell is not None:
                    of_class = {"class": each.name, "positives": each.positives}
                    lines.append(_said(column, name) | _number(column, name, each.cell) | of_class)
    at = _HEADER.index("value")
    return _written(lines, [*_HEADER[:at], *_OF_CLASSES, *_HEADER[at:]])


def _written(lines: Sequence[dict[str, object]], header: Sequence[str]) -> str:
    return csv_text(header, ([line.get(name) for name in header] for line in lines))


def _number(column: Column, name: str, cell: Cell) -> dict[str, object]:
    return cell.score._asdict() | {
        "sd_over_seeds": cell.over_seeds,
        "sd_over_samples": cell.over_samples,
        "holdout": cell.holdout,
        "best": name == column.best,
    }


def _said(column: Column, name: str) -> dict[str, object]:
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
        "n_shared": max(result.n_shared for result in column.results),
        "n_seeds": len(column.results),
        "weights": joined(result.network.weights for result in column.results),
        "split": joined(result.split for result in column.results),
        "split_sha256": joined(result.split_sha256 for result in column.results),
        **{name: getattr(first, name) for name in _AS_THEY_ARE},
    }
