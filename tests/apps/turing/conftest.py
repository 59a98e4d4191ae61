"""Fixtures of studies."""

from studying import make_study

__all__ = ["make_study"]
