from .scores.scoring import ScoreSettings, score
from .scores.table import Scores

__all__ = [
    "ScoreSettings",
    "Scores",
    "score",
]
