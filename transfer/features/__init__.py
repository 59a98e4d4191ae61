"""Features of frozen networks: extracted in one pass over the images, pooled, cached on disk, read back in rows."""

from transfer.features.cache import CacheSettings, Features, cache_folder
from transfer.features.extraction import (
    FeatureSet,
    Rows,
    View,
    calibrate_batch_norm,
    extract,
    join_features,
    run_network,
    wanted_entries,
)
from transfer.features.nearest import block_rows, load_block, nearest_rows
from transfer.features.pool import pool

__all__ = [
    "CacheSettings",
    "FeatureSet",
    "Features",
    "Rows",
    "View",
    "block_rows",
    "cache_folder",
    "calibrate_batch_norm",
    "extract",
    "join_features",
    "load_block",
    "nearest_rows",
    "pool",
    "run_network",
    "wanted_entries",
]
