"""A result: what one network is worth by one protocol on one data set, as one JSON file.

It holds, besides the numbers, which test images were answered right (or how they were ranked, or what was found
in them), so every number and interval can be computed again, and what the numbers depend on: see ``Result``.
"""

from transfer.results.code import code_digest
from transfer.results.files import find_results, kept_result, read_result, write_result
from transfer.results.result import Cost, Judged, Mode, Result, evaluation, require_comparable

__all__ = [
    "Cost",
    "Judged",
    "Mode",
    "Result",
    "code_digest",
    "evaluation",
    "find_results",
    "kept_result",
    "read_result",
    "require_comparable",
    "write_result",
]
