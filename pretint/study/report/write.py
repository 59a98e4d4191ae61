"""A study's report: a page, and its tables for the terminal, Markdown, LaTeX and CSV."""

from pathlib import Path
from typing import NamedTuple

from rich.table import Table

from pretext.files import write_atomically
from pretint.study.cells import Shelf
from pretint.study.plan import read_plan
from pretint.study.report.collect import Findings, gather
from pretint.study.report.color_scores import colors
from pretint.study.report.figures import figures
from pretint.study.report.page import page
from pretint.study.report.tables import Sheets, csv_of, sheets
from pretint.study.run import PLAN
from transfer.layout import WIDTH


def findings(folder: Path) -> Findings:
    """What is known of the study in a folder, but for its colors.

    Raises:
        UserError: there is none.
    """
    return gather(read_plan(folder / PLAN), Shelf(folder.parent))


class Written(NamedTuple):
    """A report that was written."""

    files: list[Path]
    sheets: Sheets

    def terminal(self, width: int = WIDTH) -> list[str | Table]:
        """Its first tables, to print: the files have all."""
        return [line for sheet in self.sheets.brief for line in sheet.terminal(width)]


def write_study_report(folder: Path) -> Written:
    """Write a study's report: report.html, report.md, report.tex, report.csv.

    Raises:
        UserError: there is no study, or its report cannot be written.
    """
    found, shelf = findings(folder), Shelf(folder.parent)
    colored = colors(found.plan, shelf, folder)
    shown = sheets(found, colored)
    texts = {
        "html": page(folder, found, colored, figures(found.plan, shelf, folder)),
        "md": "\n".join(sheet.markdown() for sheet in shown.all).encode(),
        "tex": "\n".join(sheet.latex() for sheet in shown.all).encode(),
        "csv": csv_of(found, colored).encode(),
    }
    files = [folder / f"report.{ending}" for ending in texts]
    for file, text in zip(files, texts.values(), strict=True):
        write_atomically(file, text)
    return Written(files, shown)
