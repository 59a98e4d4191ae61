"""Fixtures of studies."""

from browsing import browser
from studying import make_study

__all__ = ["browser", "make_study"]
