"""Metrics: the outcomes of a network on the test images, and the numbers that follow from them.

A number is a function of how often each image counts. So its interval is that function of random counts, and a
difference between two networks is tested by swapping their outcomes of each image.
"""

from transfer.metrics.box_ap import BoxAP, Detections, Points, detections_outcome
from transfer.metrics.classification import AveragePrecision, Top1Accuracy
from transfer.metrics.metric import Metric, Row, Weighted, joint_score, make_row, seed_scores
from transfer.metrics.miou import MeanIoU, confusion, segmentation_outcome

__all__ = [
    "AveragePrecision",
    "BoxAP",
    "Detections",
    "MeanIoU",
    "Metric",
    "Points",
    "Row",
    "Top1Accuracy",
    "Weighted",
    "confusion",
    "detections_outcome",
    "joint_score",
    "make_row",
    "seed_scores",
    "segmentation_outcome",
]
