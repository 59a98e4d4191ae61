"""Features of frozen networks: pooled, in one pass over the pictures, kept on disk, read back in rows."""

from transfer.features.extraction import (
    CacheSettings,
    FeatureSet,
    View,
    calibrate_batch_norm,
    default_folder,
    extract,
)

__all__ = ["CacheSettings", "FeatureSet", "View", "calibrate_batch_norm", "default_folder", "extract"]
