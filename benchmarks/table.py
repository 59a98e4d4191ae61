"""What was measured, as Markdown: ``python -m benchmarks.table``, or ``--into docs/benchmarks.md`` between its marks.

Of every machine's CSV in results/ a table: a row per comparison, medians, the ratio with its least and greatest.
Remarks stand below it, by their numbers.
"""

import argparse
import csv
from pathlib import Path

from benchmarks.paired import Spread
from pretext.errors import UserError
from pretext.files import write_atomically

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
_RESULTS = Path(__file__).parent / "results"
_HEAD = ("what", "against", "ours", "the other", "ratio", "wanted")


def tables(results: Path = _RESULTS) -> str:
    """Of every CSV file in a folder, those of one machine under one heading."""
    files = sorted(results.glob("*.csv"))
    return "\n\n".join(_table(list(csv.DictReader(file.read_text().splitlines()))) for file in files)


def _table(rows: list[dict[str, str]]) -> str:
    first = rows[0]
    dates = sorted({row["date"] for row in rows})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    lines = [
        f"### {first['machine']}, {first['cores']} cores",
        "",
        f"torch {', '.join(sorted({row['torch'] for row in rows}))}; {when}.",
        "",
        _line(_HEAD),
        _line(["---"] * 2 + ["---:"] * 4),
    ]
    remarks = list(dict.fromkeys(row["remark"] for row in rows if row["remark"]))
    lines += [_line(_cells(row, remarks)) for row in rows]
    notes = [f"{at}. {remark}" for at, remark in enumerate(remarks, 1)]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def _cells(row: dict[str, str], remarks: list[str]) -> list[str]:
    low, middle, high = (row[f"ratio_{part}"] and f"{float(row[f'ratio_{part}']):.3g}" for part in Spread._fields)
    threads = "" if row["threads"] == row["cores"] else f", {row['threads']} threads"
    note = f" ({remarks.index(row['remark']) + 1})" if row["remark"] else ""
    return [
        f"{row['what']}{note}<br>{row['setting']}{threads}",
        row["against"],
        f"{row['ours_median']} {row['unit']}" if row["ours_median"] else "",
        row["plain_median"],
        f"**{middle}** ({low} to {high})" if middle else "",
        f">= {row['target']}" if row["target"] else "",
    ]


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def put(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page.

    Raises:
        UserError: it has no such marks.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f"{page}: has no {BEGIN} ... {END}; add both lines where the table belongs")
    write_atomically(page, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}".encode())


def main() -> None:
    """Print the tables, or put them into a page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.table", description=__doc__.splitlines()[0])
    parser.add_argument("--into", type=Path, help="a page with the marks; by default they are printed")
    parser.add_argument("--results", type=Path, default=_RESULTS, help="folder of the CSV files")
    given = parser.parse_args()
    text = tables(given.results)
    if given.into is None:
        print(text)
        return
    try:
        put(given.into, text)
    except (UserError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
