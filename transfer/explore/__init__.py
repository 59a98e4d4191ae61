"""Embeddings on one page: a map, neighbors, near duplicates, outliers and doubtful labels."""

from transfer.explore.findings import Findings, find, project
from transfer.explore.job import Explored, ExploreSettings, explore

__all__ = ["ExploreSettings", "Explored", "Findings", "explore", "find", "project"]
