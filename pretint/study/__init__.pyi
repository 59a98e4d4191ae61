from .cells import StudyPlan, read_plan
from .file import StudyOptions, StudySettings, read_study
from .report.collect import StudyResults, collect_results
from .report.page import read_results, write_study_report
from .run import study

__all__ = [
    "StudyOptions",
    "StudyPlan",
    "StudyResults",
    "StudySettings",
    "collect_results",
    "read_plan",
    "read_results",
    "read_study",
    "study",
    "write_study_report",
]
