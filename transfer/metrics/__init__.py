"""What the test images said of a network, by the kind of its task, and the numbers that follow from it.

A number here is a function of how often each image counts. So its interval is that function of random counts,
and its difference between two networks is tested by swapping what they said of each image.
"""

from transfer.metrics.accuracy import Answers
from transfer.metrics.box_ap import Detected, Detections, detections_outcome
from transfer.metrics.metric import Outcome, Weighted
from transfer.metrics.miou import Segmented, confusion, segmentation_outcome
from transfer.metrics.precision import Points
from transfer.metrics.ranked import Ranked
from transfer.metrics.rows import Row, deviation, joint_score, judged_row, seed_scores

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
