from .comparing import CompareSettings, compare, compare_paths
from .intervals import Estimate, accuracy, difference
from .judging import KnnSettings, SvmSettings, knn, svm
from .networks import Network, open_network
from .outcomes import Outcome, Row
from .probing import ProbeSettings, probe
from .protocols import PROTOCOLS
from .report import write_report
from .results import Result, find_results, read_result
from .table import tables

__all__ = [
    "PROTOCOLS",
    "CompareSettings",
    "Estimate",
    "KnnSettings",
    "Network",
    "Outcome",
    "ProbeSettings",
    "Result",
    "Row",
    "SvmSettings",
    "accuracy",
    "compare",
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
