"""Metrics: the outcomes of a network on the test images, and the numbers that follow from them.

A number is a function of how often each image counts. So its interval is that function of random counts, and a
difference between two networks is tested by swapping their outcomes of each image.
"""

from transfer.metrics.box_ap import Detected, Detections, Points, detections_outcome
from transfer.metrics.classification import Answers, Ranked
from transfer.metrics.metric import Outcome, Row, Weighted, deviation, joint_score, judged_row, seed_scores
from transfer.metrics.miou import Segmented, confusion, segmentation_outcome

__all__ = [
    "Answers",
    "Detected",
    "Detections",
    "Outcome",
    "Points",
    "Ranked",
    "Row",
    "Segmented",
    "Weighted",
    "confusion",
    "detections_outcome",
    "deviation",
    "joint_score",
    "judged_row",
    "seed_scores",
    "segmentation_outcome",
]
