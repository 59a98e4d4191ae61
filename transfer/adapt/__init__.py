"""A network before fine-tuning: batch norm absorbed, weights rescaled, color let in, stages frozen."""

from transfer.adapt.backbone import Adapted, AdaptSettings, adapt

__all__ = ["AdaptSettings", "Adapted", "adapt"]
