"""The two tiers of the tests, see the marker slow in pyproject.toml."""

from collections.abc import Iterable
from typing import Any

import pytest


def one_fast(fast: Any, cases: Iterable[Any]) -> list[Any]:
    """Return the cases of a parametrized test, all but ``fast`` marked slow; a tuple is a case of several values."""
    cases = list(cases)
    assert fast in cases
    return [
        case if case == fast else pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
        for case in cases
    ]
