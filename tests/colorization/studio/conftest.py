"""Fixtures of the studio."""

from browsing import browser

__all__ = ["browser"]
