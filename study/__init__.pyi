from .file import StudySettings, read_study
from .plan import Plan, read_plan
from .report.gathering import Findings, gather
from .report.writing import findings, write_study_report
from .running import StudyOptions, study

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
