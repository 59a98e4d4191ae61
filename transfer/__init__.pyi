from .bootstrap import Estimate, accuracy, difference
from .compare import CompareSettings, compare_paths
from .metrics import Metric, Row
from .networks import Network, open_network
from .probes.knn import KnnSettings, knn
from .probes.linear import ProbeSettings, probe
from .probes.svm import SvmSettings, svm
from .protocols import PROTOCOLS
from .report import write_report
from .results import Result, find_results, read_result
from .table import tables
from .tasks.registry import ClassifySettings, DetectSettings, SegmentSettings

__all__ = [
    "PROTOCOLS",
    "ClassifySettings",
    "CompareSettings",
    "DetectSettings",
    "Estimate",
    "KnnSettings",
    "Metric",
    "Network",
    "ProbeSettings",
    "Result",
    "Row",
    "SegmentSettings",
    "SvmSettings",
    "accuracy",
    "compare_paths",
    "difference",
    "find_results",
    "knn",
    "open_network",
    "probe",
    "read_result",
    "svm",
    "tables",
    "write_report",
]
