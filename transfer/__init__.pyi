from .adapting import AdaptSettings, adapt
from .comparing import CompareSettings, compare, compare_paths
from .finetuning import finetune
from .intervals import Estimate, accuracy, difference
from .judging import KnnSettings, SvmSettings, knn, svm
from .networks import Network, open_network
from .outcomes import Outcome, Row
from .probing import ProbeSettings, probe
from .protocols import PROTOCOLS
from .report import write_report
from .results import Result, find_results, read_result
from .table import tables
from .tasks.opening import ClassifySettings, DetectSettings, SegmentSettings

__all__ = [
    "PROTOCOLS",
    "AdaptSettings",
    "ClassifySettings",
    "CompareSettings",
    "DetectSettings",
    "Estimate",
    "KnnSettings",
    "Network",
    "Outcome",
    "ProbeSettings",
    "Result",
    "Row",
    "SegmentSettings",
    "SvmSettings",
    "accuracy",
    "adapt",
    "compare",
    "compare_paths",
    "difference",
    "find_results",
    "finetune",
    "knn",
    "open_network",
    "probe",
    "read_result",
    "svm",
    "tables",
    "write_report",
]
