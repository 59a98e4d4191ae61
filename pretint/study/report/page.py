"""The report of a study: one HTML page, and its tables as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from rich.table import Table
from scipy.stats import spearmanr

from pretext.files import write_atomically
from pretint.study.cells import PLAN, PRETRAIN, CellStore, read_plan
from pretint.study.report.collect import EvaluationTable, StudyResults, collect_results
from pretint.study.report.colors import ColorScores, Figures, colors, figures
from pretint.study.report.table import (
    Sheets,
    best_of,
    board_line,
    color_number,
    csv_of,
    full_sheet,
    health_sheet,
    minutes,
    sheets,
    took,
)
from transfer.bootstrap import METRIC_TITLES, p_text
from transfer.layout import WIDTH, Number, TableGrid
from transfer.report.charts import ChartLine, cost_chart, looks_of, shorten
from transfer.report.render import image, render_page, to_text
from transfer.report.result_panels import LETTERS, MOST, evaluation_panel
from transfer.table import Section, TableNetwork

_TEMPLATE = Path(__file__).with_name("study.html.jinja")
_HEAVY = 1_200_000  # bytes of the sheet of images
_SURE = 0.05


class StudyReport(NamedTuple):
    """A report that was written."""

    files: list[Path]
    sheets: Sheets

    def terminal(self, width: int = WIDTH) -> list[str | Table]:
        """Return its first tables for the terminal: the files have all."""
        return [line for sheet in self.sheets.brief for line in sheet.terminal(width)]


def read_results(folder: Path) -> StudyResults:
    """Return the results of the study in a folder, without its colors.

    Raises:
        UserError: there is no study.
    """
    return collect_results(read_plan(folder / PLAN), CellStore(folder.parent))


def write_study_report(folder: Path) -> StudyReport:
    """Write a study's report: report.html, report.md, report.tex, report.csv.

    Raises:
        UserError: there is no study, or its report cannot be written.
    """
    results, shelf = read_results(folder), CellStore(folder.parent)
    colored = colors(results.plan, shelf, folder)
    tables = sheets(results, colored)
    texts = {
        "html": page(folder, results, colored, figures(results.plan, shelf, folder)),
        "md": "\n".join(sheet.markdown() for sheet in tables.all).encode(),
        "tex": "\n".join(sheet.latex() for sheet in tables.all).encode(),
        "csv": csv_of(results, colored).encode(),
    }
    files = [folder / f"report.{ending}" for ending in texts]
    for file, text in zip(files, texts.values(), strict=True):
        write_atomically(file, text)
    return StudyReport(files, tables)


def page(folder: Path, results: StudyResults, colors: Sequence[ColorScores], figures: Figures) -> bytes:
    """Return the page; it loads nothing from the network, and what comes from outside is escaped.

    Args:
        folder: folder of the study.
        results: its results.
        colors: the joint scores of colors.
        figures: sample images.
    """
    plan, boards = results.plan, results.boards
    scored = [one for one in colors if one.metric]
    header = [(board.evaluation, f"{METRIC_TITLES[board.first.metric]}, %" if board.first else "") for board in boards]
    header += [(one.evaluation, f"{one.metric.title}, %") for one in scored if one.metric]
    cells = {cell.key: cell for cell in plan.cells}.values()
    commands: dict[str, list[str]] = {"Pretraining": [], "Evaluations": []}  # in the order in which they can be called
    for cell in cells:
        title = "Pretraining" if cell.command == PRETRAIN else "Evaluations"
        commands[title].append(cell.call["line"])
    kinds = [
        next((line.column.first.network.kind for line in lines if line and line.column), "pretrained")
        for lines in ([board_line(board, variant) for board in boards] for variant in results.variants)
    ]
    looks = dict(zip(results.variants, looks_of(kinds), strict=True))
    best = next(((board, variant) for board in boards if (variant := best_of(board))), None)
    trained = [v for v in results.variants if any(v in values for values in plan.differing.values())]
    return render_page(
        _TEMPLATE,
        name=folder.resolve().name,
        path=str(folder),
        plan=plan,
        results=results,
        baselines=[variant for variant in results.variants if variant in plan.against.values()],
        best=_cell(results, *best) if best else None,
        sure=_SURE,
        header=header,
        rows={
            variant: [
                *(_cell(results, board, variant) for board in boards),
                *(_color_cell(results, one, variant) for one in scored),
            ]
            for variant in results.variants
        },
        panels=[_panel(results, board, looks, f"evaluation-{at}") for at, board in enumerate(boards, 1)],
        colors=colors,
        figures_=figures,
        image=image(figures.file, _HEAVY) if figures.file else None,
        health=_health(results),
        ranks=_ranks(results, plan.differing),
        costs=results.costs,
        took=took(results),
        minutes=minutes,
        devices=len({cost.device for cost in results.costs.values()}),
        trained=trained,
        differing=[
            (key, *(to_text(values[v]) if v in values else "" for v in trained))
            for key, values in plan.differing.items()
        ],
        missing=[(", ".join(names), reason) for reason, names in results.reasons.items()],
        cells=len(cells),
        commands=commands,
        recipes={file: yaml.safe_dump(settings, sort_keys=False) for file, settings in plan.recipes.items()},
    )


def _cell(results: StudyResults, board: EvaluationTable, variant: str) -> dict[str, Any]:
    """Return a cell of the main table: the number of a variant, and its difference from the one it is compared with."""
    line = board_line(board, variant)
    cell: dict[str, Any] = {"number": None, "missing": "missing" if line and not board.error else ""}
    if line is None or not line.number or not board.first:
        return cell
    cell |= {
        "evaluation": board.evaluation,
        "measure": METRIC_TITLES[board.first.metric],
        "variant": variant,
        "row": line.row,
        "number": Number(line.number.score, line.number.over_seeds, best_of(board) == variant),
        "missing": f"without seed {', '.join(map(str, line.missing))}" if line.missing else "",
        "gap": None,
    }
    if line.gap and line.adjusted is not None:
        cell |= {
            "gap": Number(line.gap.difference, signed=True),
            "against": results.plan.against[variant],
            "p": p_text(line.adjusted),  # after Holm's correction
            "sure": line.adjusted < _SURE,
            "over_seeds": Number(line.gap.over_seeds, signed=True) if line.gap.over_seeds else None,
        }
    return cell


def _color_cell(results: StudyResults, colors: ColorScores, variant: str) -> dict[str, Any]:
    """Return a cell of the main table: the score of a variant's colors. Its difference is not tested."""
    line, metric = colors.line(variant), colors.metric
    gap = line.differences.get(metric.key) if line and metric else None
    number = Number(gap, None, False, True, metric.scale, metric.digits) if gap and metric else None
    sure = bool(gap and not gap.low <= 0 <= gap.high)
    cell = {"number": color_number(results, colors, variant), "row": "", "missing": "", "gap": number}
    return cell | {"p": "", "sure": sure, "over_seeds": None}


def _health(results: StudyResults) -> TableGrid | None:
    """Return the table of color health, with the step and the number of seeds that it is of."""
    sheet = health_sheet(results)
    if not sheet:
        return None
    known = results.health
    rows = tuple(
        (variant, (*cells, f"{known[variant].step:,}", f"{known[variant].seeds}")) for variant, cells in sheet.grid.rows
    )
    return sheet.grid._replace(header=(*sheet.grid.header, "step", "seeds"), rows=rows)


def _ranks(results: StudyResults, differing: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return RankMe of each variant beside the first evaluation, and how alike they rank the runs; None without any.

    Only runs of the same backbone are ranked together: RankMe is at most the number of features.
    """
    board = next((board for board in results.boards if board.first), None)
    if board is None or not results.ranks:
        return None
    shapes = [differing[name] for name in differing if name.startswith(("backbone.name", "backbone.arguments"))]
    pairs: dict[str, list[tuple[float, float]]] = {}
    rows: list[tuple[str, str, str]] = []
    for variant, ranks in results.ranks.items():
        line = board_line(board, variant)
        scores = {result.network.seed: 100 * result.row(line.row).score.value for result in line.column.results} if (
            line and line.column
        ) else {}  # fmt: skip
        shape = repr([values.get(variant) for values in shapes])
        pairs.setdefault(shape, []).extend((rank, scores[seed]) for seed, rank in ranks.items() if seed in scores)
        rows.append((
            variant,
            ", ".join(f"{rank:.1f}" for rank in ranks.values()),
            ", ".join(f"{scores[seed]:.1f}" for seed in ranks if seed in scores),
        ))  # fmt: skip
    alike = []
    for runs in pairs.values():
        columns = [*zip(*runs, strict=True)]
        if len(runs) > 2 and all(len({*column}) > 1 for column in columns):
            alike.append((len(runs), spearmanr(*columns).statistic))
    return {"rows": rows, "alike": alike, "evaluation": board.evaluation}


def _panel(
    results: StudyResults, board: EvaluationTable, looks: Mapping[str, tuple[str, int]], anchor: str
) -> dict[str, Any]:
    """Return the section of an evaluation."""
    lines = [line for variant in results.variants if (line := board_line(board, variant))]
    rows = {line.column: line.row for line in lines if line.column}
    if not rows:
        return {"id": anchor, "title": board.evaluation, "error": board.error, "first": None}
    section = Section(tuple(TableNetwork((column,), {}) for column in rows))
    panel = evaluation_panel(anchor, board.evaluation, section, {c: looks[c.label] for c in rows}, rows)
    points: list[tuple[float, ChartLine]] = []  # random weights have 0 minutes
    for line in lines:
        cost = results.costs.get(line.variant)
        if line.number and line.column and (cost or line.column.first.network.kind == "random"):
            took = cost.seconds / 60 if cost else 0.0
            points.append((took, ChartLine(shorten(line.variant, LETTERS), [line.number.score], *looks[line.variant])))
    timed = any(took for took, _ in points)
    if timed:
        minutes, drawn = zip(*points[:MOST], strict=True)
        svg = cost_chart(f"{anchor}-cost", METRIC_TITLES[panel["first"].metric], minutes, drawn)
        panel["figures"].append({"title": "Against cost", "svg": svg, "left_out": max(0, len(points) - MOST)})
    sheet = full_sheet(results, board)
    return panel | {
        "rule": board.rule,
        "grid": sheet.grid.flat() if sheet else None,
        "cost": timed,
        "tests": sorted({line.gap.test for line in lines if line.gap}),
    }
