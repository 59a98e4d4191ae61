"""Judge: what a frozen backbone is worth.

What is named here is the public interface; the rest may change between versions.
"""

from transfer.compare import CompareSettings, compare, compare_paths
from transfer.intervals import accuracy, difference
from transfer.results import Result, find_results, read_result
from transfer.table import tables

__all__ = [
    "CompareSettings",
    "Result",
    "accuracy",
    "compare",
    "compare_paths",
    "difference",
    "find_results",
    "read_result",
    "tables",
]
