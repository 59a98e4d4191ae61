"""The long table: a row for each number, with all that it depends on.

Probes, fine-tuned tasks, online probes, color scores and studies are rows of one table with the same columns. Every CSV
file of Pretint is this table. Numbers are fractions, not percent.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pretext.engine.journal import read_journal
from pretext.engine.run import run_settings
from pretext.store import Record
from transfer.bootstrap import Estimate
from transfer.columns import Column, ColumnCell, columns, evaluations
from transfer.results import Result

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = {
    **dict.fromkeys(("network", "group", "kind"), "str"),
    "step": "Int64",
    **dict.fromkeys(("seeds", "evaluation_seeds", "evaluation", "protocol", "mode", "train", "test"), "str"),
    "fraction": "float64",
    **dict.fromkeys(("stage", "variant", "class"), "str"),
    "positives": "Int64",
    "metric": "str",
    **dict.fromkeys(("value", "low", "high", "sd_over_seeds", "sd_over_samples", "holdout"), "float64"),
    "best": "boolean",
    **dict.fromkeys(("n", "n_seeds", "n_shared"), "Int64"),
    "against": "str",
    **dict.fromkeys(("difference", "difference_low", "difference_high"), "float64"),
    **dict.fromkeys(("difference_over_seeds_low", "difference_over_seeds_high", "p", "p_holm"), "float64"),
    **dict.fromkeys(("tests", "dims"), "Int64"),
    "pooling": "str",
    "view_size": "Int64",
    **dict.fromkeys(("train_digest", "test_digest", "split", "split_sha256", "weights"), "str"),
    **dict.fromkeys(("pretraining_seconds", "seconds", "extraction_seconds", "images_per_second"), "float64"),
    **dict.fromkeys(("peak_bytes", "cache_bytes"), "Int64"),
    "device": "str",
}
"""The columns, with their types in pandas."""

_SHARED = ("protocol", "mode", "metric", "train", "test", "fraction", "view_size", "train_digest", "test_digest")


def column_records(column: Column) -> list[Record]:
    """Return a record for each row of a column: joint over its seeds, with the interval over test images."""
    return [make_record(column, name, cell) for name, cell in column.cells.items()]


def make_record(column: Column, name: str, cell: ColumnCell, **facts: Any) -> Record:
    """Return the record of a number of a column's row, with more facts."""
    first, results, row = column.first, column.results, column.first.row(name)
    costs = [result.cost for result in results]
    return {
        "network": column.label,
        "group": first.network.group,
        "kind": first.network.kind,
        "step": first.network.step,
        "seeds": join(result.network.seed for result in results),
        "evaluation_seeds": join(result.seed for result in results),
        **{name: getattr(first, name) for name in _SHARED},
        **{name: getattr(row, name) for name in ("stage", "variant", "dims", "pooling")},
        **cell.score._asdict(),
        "sd_over_seeds": cell.over_seeds,
        "sd_over_samples": cell.over_samples,
        "holdout": cell.holdout,
        "best": name == column.best,
        "n": first.n_test,
        "n_seeds": len(results),
        "n_shared": max(result.n_shared for result in results),
        "split": join(result.split for result in results),
        "split_sha256": join(result.split_sha256 for result in results),
        "weights": join(result.network.weights for result in results),
        **{name: fmean(getattr(c, name) for c in costs) for name in ("seconds", "extraction_seconds")},
        "images_per_second": fmean(cost.images_per_second for cost in costs),
        **{name: max(getattr(cost, name) for cost in costs) for name in ("peak_bytes", "cache_bytes")},
        "device": join(cost.device for cost in costs),
        **facts,
    }


def difference_record(against: str, gap: Estimate) -> Record:
    """Return a difference from another network as a part of a record."""
    return {"against": against, **dict(zip(("difference", "difference_low", "difference_high"), gap, strict=True))}


def result_records(results: Sequence[Result], joint: bool = False) -> list[Record]:
    """Return the records of results.

    Args:
        results: the results.
        joint: one record for all seeds of a network: their mean, with its interval and the deviation over seeds;
            otherwise one for each result and row.

    Raises:
        UserError: with ``joint``, seeds of one network have different rows.
    """
    if joint:
        every = [column for group in evaluations(results) for column in columns(group)]
    else:
        every = [Column(result.network.name, (result,)) for result in results]
    return [record for column in every for record in column_records(column)]


def long_table(results: Sequence[Result], joint: bool = False) -> "DataFrame":
    """Return ``result_records`` as a table, see ``COLUMNS``."""
    return make_frame(result_records(results, joint))


def online_records(run: Path) -> list[Record]:
    """Return the numbers of a run's online probe, at every step at which it was evaluated.

    Raises:
        UserError: the folder is no run, or is damaged.
    """
    settings = run_settings(run)
    facts = {
        "network": run.name,
        "kind": "pretrained",
        "seeds": str(settings["seed"]),
        "n_seeds": 1,
        "protocol": "online",
        "mode": "online",
        "metric": "top-1",
        "train": settings["online"]["source"],
        "test": settings["online"]["source"],
    }
    return [
        {**facts, "step": record["step"], "stage": name.removeprefix("accuracy_"), "value": value}
        for record in read_journal(run)
        if record["kind"] == "online"
        for name, value in record.items()
        if name.startswith("accuracy_")
    ]


def make_frame(records: Iterable[Record]) -> "DataFrame":
    """Return records as a table: first ``COLUMNS``, then what else some records have."""
    import pandas as pd  # not at the top: the import takes half a second

    lines = list(records)
    known = {name: pd.array([line.get(name) for line in lines], dtype=kind) for name, kind in COLUMNS.items()}
    others = dict.fromkeys(name for line in lines for name in line if name not in COLUMNS)
    return pd.DataFrame(known | {name: pd.Series([line.get(name) for line in lines], dtype=object) for name in others})


def join(values: Iterable[object]) -> str:
    """Return distinct values as one text."""
    return ";".join(dict.fromkeys(map(str, values)))
