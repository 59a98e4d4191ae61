"""What the test pictures said of a network, by the kind of its task, and the numbers that follow from it.

A number here is a function of how often each picture counts. So its interval is that function of random counts,
and its difference between two networks is tested by swapping what they said of each picture.
"""

from transfer.outcomes.answers import Answers
from transfer.outcomes.detections import Detected, Detections, detections_outcome
from transfer.outcomes.outcome import Outcome, Weighted
from transfer.outcomes.precision import Points
from transfer.outcomes.ranks import Ranked
from transfer.outcomes.rows import Row, deviation, joint_score, judged_row, seed_scores
from transfer.outcomes.segmentations import Segmented, confusion, segmentation_outcome

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
