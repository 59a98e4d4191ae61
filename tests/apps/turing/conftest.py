"""Fixtures of studies."""

from turing_studies import make_study

__all__ = ["make_study"]
