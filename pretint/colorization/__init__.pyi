from .colorizers import Colourist, Prediction
from .hints import Hints, from_points, read_hints
from .job import Coloured, colorize, colorize_picture
from .merge import join_picture
from .photographs import Photograph, open_photograph, write_photograph
from .registry import open_colourist
from .scores.job import ScoreSettings, score
from .scores.table import Scores
from .settings import ColorizeSettings

__all__ = [
    "ColorizeSettings",
    "Coloured",
    "Colourist",
    "Hints",
    "Photograph",
    "Prediction",
    "ScoreSettings",
    "Scores",
    "colorize",
    "colorize_picture",
    "from_points",
    "join_picture",
    "open_colourist",
    "open_photograph",
    "read_hints",
    "score",
    "write_photograph",
]
