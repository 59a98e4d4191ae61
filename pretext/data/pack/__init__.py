"""Packing: any source as small JPEGs in tar shards."""

from pretext.data.pack.job import Packed, PackSettings, pack

__all__ = ["PackSettings", "Packed", "pack"]
