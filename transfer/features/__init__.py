"""Features of frozen networks: extracted in one pass over the images, pooled, cached on disk, read back in rows."""

from transfer.features.cache import CacheSettings, Features, cache_folder
from transfer.features.extraction import (
    FeatureSet,
    Rows,
    View,
    calibrate_batch_norm,
    extract,
    run_network,
    wanted_entries,
)
from transfer.features.pool import pool

__all__ = [
    "CacheSettings",
    "FeatureSet",
    "Features",
    "Rows",
    "View",
    "cache_folder",
    "calibrate_batch_norm",
    "extract",
    "pool",
    "run_network",
    "wanted_entries",
]
