"""The report: what a run learned and what its features are worth, on one page."""

from transfer.report.page import write_report

__all__ = ["write_report"]
