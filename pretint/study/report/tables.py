"""A study's findings as tables: for the terminal, Markdown, LaTeX and CSV."""

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from pretext.escape import csv_text
from pretint.study.report.collect import HEALTH, Board, Findings, Line
from pretint.study.report.color_scores import Colors
from pretint.study.report.full_table import board_line, full_sheet
from transfer.bootstrap import MEASURES
from transfer.columns import Column
from transfer.layout import Cell, Grid, Number, Sheet

_CSV = (
    *("variant", "evaluation", "protocol", "metric", "row", "shown", "value", "low", "high", "over_seeds", "seeds"),
    *("n_test", "against", "difference", "difference_low", "difference_high", "p", "p_holm", "tests"),
    *("difference_over_seeds_low", "difference_over_seeds_high", "minutes", "evaluation_minutes"),
)


class Sheets(NamedTuple):
    """A study's tables."""

    results: list[Sheet]
    """What all variants are worth, and what each differs by from the one that it is compared with."""
    full: list[Sheet]
    """Every row of every evaluation; what was looked at besides; what it took."""
    colors: list[Sheet]

    @property
    def brief(self) -> list[Sheet]:
        """What the terminal shows."""
        return self.results + self.colors

    @property
    def all(self) -> list[Sheet]:
        """What files hold."""
        return self.results + self.full + self.colors


def sheets(found: Findings, colors: Sequence[Colors] = ()) -> Sheets:
    """What is known, as tables."""
    full = [*(full_sheet(found, board) for board in found.boards), _health(found), took(found)]
    return Sheets(
        [sheet for sheet in (_main(found, colors), _differences(found)) if sheet],
        [sheet for sheet in full if sheet],
        [sheet for one in colors if one.scores for sheet in one.scores.sheets],
    )


def best_of(board: Board) -> str:
    """The variant with the greatest number; empty where one alone has any."""
    there = {line.variant: line.number.score.value for line in board.lines if line.number}
    return max(there, key=there.__getitem__) if len(there) > 1 else ""


def best_colored(found: Findings, colors: Colors) -> str:
    """The variant that scored best."""
    there = {
        v: line.scores[colors.metric.key].value for v in found.variants if colors.metric and (line := colors.line(v))
    }
    return max(there, key=there.__getitem__) if len(there) > 1 else ""


def color_number(found: Findings, colors: Colors, variant: str) -> Number | None:
    """What stands for a variant's colors in the study's table."""
    line, metric = colors.line(variant), colors.metric
    if line is None or metric is None or metric.key not in line.scores:
        return None
    best = variant == best_colored(found, colors)
    return Number(line.scores[metric.key], line.spreads.get(metric.key), best, False, metric.scale, metric.digits)


def p_text(p: float) -> str:
    """0.0123, or <0.0001."""
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def minutes(seconds: float) -> str:
    """Of a cell."""
    if seconds < 3:
        return "<0.1"
    return f"{seconds / 60:.1f}" if seconds < 6000 else f"{seconds / 60:,.0f}"


def _main(found: Findings, colors: Sequence[Colors]) -> Sheet:
    boards = found.boards
    scored = [one for one in colors if one.metric]
    best = {board.evaluation: best_of(board) for board in boards}
    rows = []
    for variant in found.variants:
        cells: list[Cell] = []
        for board in boards:
            line = board_line(board, variant)
            number = line.number if line else None
            bold = best[board.evaluation] == variant
            missing = "missing" if line and not board.error else ""
            cells.append(Number(number.score, number.over_seeds, bold) if number else missing)
        cells += [color_number(found, one, variant) or "" for one in scored]
        cost = found.costs.get(variant)
        rows.append((variant, (*cells, minutes(cost.seconds) if cost else "")))
    names = [board.evaluation for board in boards]
    names += [f"{one.evaluation}\n{one.metric.title}" for one in scored if one.metric]
    grid = Grid("variant", (*names, "minutes"), tuple(rows), "evaluation")
    return Sheet(found.plan.about or "study", grid, tuple(_footer(found, colors)))


def _differences(found: Findings) -> Sheet | None:
    boards = [board for board in found.boards if board.first]
    rows = []
    for variant in found.variants:
        lines = [board_line(board, variant) for board in boards]
        cells = tuple(Number(line.gap.difference, signed=True) if line and line.gap else "" for line in lines)
        if any(cells):
            rows.append((f"{variant} - {found.plan.against[variant]}", cells))
    if not rows:
        return None
    about = ["[..]: 95% interval of the paired difference, on the same test images"]
    for board in boards:
        gaps = [(line, line.gap) for line in board.lines if line.gap]
        told = [f"{line.variant} {p_text(line.adjusted)}" for line, _ in gaps if line.adjusted is not None]
        if told:
            tests = "test" if found.tests == 1 else "tests"
            about.append(f"{board.evaluation}, p by Holm for {found.tests} {tests}: {', '.join(told)}")
        told = [
            f"{line.variant} {Number(gap.over_seeds, signed=True).interval}" for line, gap in gaps if gap.over_seeds
        ]
        if told:
            about.append(f"{board.evaluation}, Welch's 95% interval of the difference over seeds: {', '.join(told)}")
    names = tuple(board.evaluation for board in boards)
    return Sheet("differences", Grid("variant", names, tuple(rows), "evaluation"), tuple(about))


def _health(found: Findings) -> Sheet | None:
    if not found.health:
        return None
    keys = [key for key in HEALTH if any(key in one.values for one in found.health.values())]
    rows = tuple(
        (variant, tuple(_spread(one.values.get(key)) for key in keys))
        for variant in found.variants
        if (one := found.health.get(variant))
    )
    about = (
        "at the last look of training, mean over seeds; +-: standard deviation over seeds",
        "loss: compare only where the objective is the same",
    )
    return Sheet("color health", Grid("variant", tuple(HEALTH[key] for key in keys), rows, "measure"), about)


def took(found: Findings) -> Sheet | None:
    """Minutes of every evaluation; None if nothing is finished."""
    boards = [board for board in found.boards if board.first]
    rows = []
    for variant in found.variants:
        lines = [board_line(board, variant) for board in boards]
        cells = tuple(minutes(_seconds(line.column)) if line and line.column else "" for line in lines)
        rows += [(variant, cells)] if any(cells) else []
    if not boards:
        return None
    results = [result for board in boards for line in board.lines if line.column for result in line.column.results]
    about = f"mean over seeds; on {', '.join(dict.fromkeys(result.cost.device for result in results))}"
    grid = Grid("variant", tuple(board.evaluation for board in boards), tuple(rows), "evaluation")
    return Sheet("minutes of an evaluation, a seed", grid, (about,))


def _seconds(column: Column) -> float:
    """Of an evaluation, its seeds on average."""
    return fmean(result.cost.seconds for result in column.results)


def _spread(value: tuple[float, float | None] | None) -> str:
    if value is None:
        return ""
    return f"{value[0]:.3f}" + (f" +-{value[1]:.3f}" if value[1] is not None else "")


def _footer(found: Findings, colors: Sequence[Colors]) -> Iterator[str]:
    boards = [board for board in found.boards if board.first]
    for board in found.boards:
        if board.error:
            yield f"{board.evaluation} cannot be shown in one table: {board.error}"
    for board in boards:
        first = board.first
        assert first is not None
        yield (
            f"{board.evaluation}: protocol {first.protocol}, {MEASURES[first.metric]}, %, on {first.n_test:,} test "
            f"images of {first.test}; row: {board.rule}"
        )
        chosen = [f"{line.variant} {line.row}" for line in board.lines if line.column]
        yield f"{board.evaluation}, rows shown: {', '.join(chosen)}"
    for one in colors:
        if one.about:
            yield f"{one.evaluation}: {one.about}"
        if one.remark:
            yield f"{one.evaluation}: {one.remark}"
    if boards and boards[0].first:
        yield f"[..]: {boards[0].first.interval}; +-: standard deviation over seeds"
    for reason, names in found.reasons.items():
        yield f"missing: {', '.join(names)}: {reason}"
    yield from found.remarks
    for variant, cost in found.costs.items():
        yield f"{variant}: {cost.steps:,} steps, {cost.images:,} images, {cost.device}"


def csv_of(found: Findings, colors: Sequence[Colors] = ()) -> str:
    """A line for each number: all rows of all variants; the rows that are shown with their differences. No percent."""
    lines: list[dict[str, object]] = []
    for board in found.boards:
        for line in board.lines:
            if line.column:
                lines += _records(found, board, line, line.column)
    for one in colors:
        for variant in found.variants:
            line_ = one.line(variant)
            for key, score in line_.scores.items() if line_ and one.scores else ():
                assert line_ and one.scores
                gap = line_.differences.get(key)
                told: dict[str, object] = {
                    "variant": variant, "evaluation": one.evaluation, "protocol": "score", "metric": key, "row": key,
                    "shown": key == (one.metric.key if one.metric else ""), **_finite(score._asdict()),
                    "over_seeds": line_.spreads.get(key, ""),
                    "seeds": " ".join(map(str, one.seeds[variant])), "n_test": one.scores.facts["n"],
                    "minutes": _minutes(found, variant),
                }  # fmt: skip
                if gap:
                    named = ("difference", "difference_low", "difference_high")
                    told |= {"against": one.against, **_finite(dict(zip(named, gap, strict=True)))}
                lines.append(told)
    return csv_text(_CSV, ([line.get(name) for name in _CSV] for line in lines))


def _records(found: Findings, board: Board, line: Line, column: Column) -> Iterator[dict[str, object]]:
    first = column.first
    for name, cell in column.cells.items():
        told: dict[str, object] = {
            "variant": line.variant, "evaluation": board.evaluation, "protocol": first.protocol,
            "metric": first.metric, "row": name, "shown": name == line.row, **cell.score._asdict(),
            "over_seeds": "" if cell.over_seeds is None else cell.over_seeds,
            "seeds": " ".join(str(result.network.seed) for result in column.results),
            "n_test": first.n_test, "minutes": _minutes(found, line.variant),
            "evaluation_minutes": _seconds(column) / 60,
        }  # fmt: skip
        if name == line.row and line.gap:
            gap = line.gap
            told |= {"against": found.plan.against[line.variant], "difference": gap.difference.value}
            told |= {"difference_low": gap.difference.low, "difference_high": gap.difference.high}
            told |= {"p": gap.p, "p_holm": line.adjusted, "tests": found.tests}
            if gap.over_seeds:
                told["difference_over_seeds_low"] = gap.over_seeds.low
                told["difference_over_seeds_high"] = gap.over_seeds.high
        yield told


def _minutes(found: Findings, variant: str) -> object:
    return found.costs[variant].seconds / 60 if variant in found.costs else ""


def _finite(values: dict[str, float]) -> dict[str, object]:
    return {key: value if math.isfinite(value) else "" for key, value in values.items()}
