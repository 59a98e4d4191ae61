"""Speed, as ratios within one process: ``make bench``, or ``python -m benchmarks --device cuda``.

Every row compares our way with a plain one on the same data, in turn; the median of the rounds' ratios is shown,
with the least and the greatest. Prints a table, writes results/MACHINE.csv; asserts nothing. See the modules
for what exactly is compared.
"""

import argparse
import csv
import datetime
import io
import os
import platform
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import ceiling, colorizing, colors, data_path, frozen, loss, methods, step, using
from benchmarks.images import origin
from benchmarks.paired import Row, Spread, skipped
from pretext.errors import UserError
from pretext.files import write_atomically

_Rows = Callable[[torch.device, int], Iterator[Row]]
_ALL: dict[str, _Rows] = {
    "step": step.rows, "ceiling": ceiling.rows, "data": data_path.rows, "loss": loss.rows, "colors": colors.rows,
    "frozen": frozen.rows, "colorizing": colorizing.rows, "methods": methods.rows, "using": using.rows,
}  # fmt: skip
_KEY = ("what", "setting", "against", "threads")


def machine(device: torch.device) -> str:
    """The name of what computes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found = (
        re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()) if Path("/proc/cpuinfo").exists() else None
    )
    return found[1] if found else platform.processor() or platform.machine()


def measured(name: str, rows: _Rows, device: torch.device, rounds: int) -> Iterator[Row]:
    """The rows of a benchmark; one that says why, where it cannot be run."""
    try:
        yield from rows(device, rounds)
    except (ImportError, torch.OutOfMemoryError, UserError) as error:
        yield skipped(name, " ".join(str(error).split())[:200])


def record(row: Row, about: dict[str, Any]) -> dict[str, Any]:
    """A row as the CSV has it."""
    shown: dict[str, Any] = {name: getattr(row, name) for name in ("what", "setting", "against", "unit")}
    for name in ("ours", "plain", "ratio"):
        for part, value in zip(Spread._fields, getattr(row, name) or ("", "", ""), strict=True):
            shown[f"{name}_{part}"] = f"{value:.4g}" if value != "" else ""
    return {**shown, "target": row.target or "", "remark": row.remark, **about}


def keep(path: Path, new: list[dict[str, Any]]) -> None:
    """Write rows; older ones of the same comparison give way, others stay."""
    old = list(csv.DictReader(path.read_text().splitlines())) if path.exists() else []
    keys = {tuple(str(row[name]) for name in _KEY) for row in new}
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(new[0]), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows([row for row in old if tuple(row.get(name, "") for name in _KEY) not in keys] + new)
    write_atomically(path, buffer.getvalue().encode())


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, or cuda")
    parser.add_argument("--only", choices=_ALL, nargs="*", default=list(_ALL))
    parser.add_argument(
        "--images", nargs=2, default=(), metavar=("TRAIN", "TEST"), help="of frozen: with labels, see docs/data.md"
    )
    parser.add_argument(
        "--recipes", choices=ceiling.RECIPES, nargs="*", default=list(ceiling.RECIPES), help="of ceiling"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parent / "results", help="folder of the CSV files"
    )
    given = parser.parse_args()
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here that torch can use")
    torch.manual_seed(0)

    name, cores = machine(device), len(os.sched_getaffinity(0))
    about = {
        "machine": name, "cores": cores, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "images": origin(), "rounds": given.rounds, "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }  # fmt: skip
    console = Console(width=150)
    table = Table(
        title=f"{name}, {cores} cores, {about['threads']} threads, torch {torch.__version__}", title_justify="left"
    )
    for column in ("what", "setting", "against"):
        table.add_column(column)
    for column in ("unit", "ours", "plain", "times as good", "target"):
        table.add_column(column, justify="right", no_wrap=True)
    done: list[dict[str, Any]] = []
    path = given.results / f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}.csv"
    parts: dict[str, _Rows] = {
        **_ALL,
        "frozen": partial(frozen.rows, images=given.images),
        "ceiling": partial(ceiling.rows, recipes=given.recipes),
    }
    for part in given.only:
        for row in measured(part, parts[part], device, given.rounds):
            console.print(f"{row.what}, {row.setting}: {_text(row.ratio)} {row.remark}", highlight=False)
            medians = [f"{one.median:,.4g}" if one else "" for one in (row.ours, row.plain)]
            goal = f">= {row.target:g}" if row.target else ""
            table.add_row(row.what, row.setting, row.against, row.unit, *medians, _text(row.ratio) or row.remark, goal)
            done.append(record(row, about))
            keep(path, done)
    console.print(table, f"written to {path}")


def _text(ratio: Spread | None) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if ratio else ""


if __name__ == "__main__":
    main()
