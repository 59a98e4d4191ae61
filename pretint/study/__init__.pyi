from .cells import Plan, read_plan
from .file import StudyOptions, StudySettings, read_study
from .report.collect import Findings, gather
from .report.page import findings, write_study_report
from .run import study

__all__ = [
    "Findings",
    "Plan",
    "StudyOptions",
    "StudySettings",
    "findings",
    "gather",
    "read_plan",
    "read_study",
    "study",
    "write_study_report",
]
