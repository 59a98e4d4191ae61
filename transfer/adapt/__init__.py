"""Preparation of a network for fine-tuning: absorb batch norm, rescale weights, add color, freeze stages."""

from transfer.adapt.backbone import Adapted, AdaptSettings, adapt

__all__ = ["AdaptSettings", "Adapted", "adapt"]
