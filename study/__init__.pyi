from .file import StudySettings, read_study
from .gathering import Findings, gather
from .plan import Plan, read_plan
from .reporting import findings, write_study_report
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
