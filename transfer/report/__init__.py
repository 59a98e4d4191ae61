"""The report: the training of a run and the quality of its features, on one page."""

from transfer.report.page import write_report

__all__ = ["write_report"]
