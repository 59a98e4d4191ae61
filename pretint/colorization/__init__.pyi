from .colorizers import Colorist, Prediction
from .hints import Hints, from_points, read_hints
from .job import Colored, colorize, colorize_image
from .merge import join_image
from .photographs import Photograph, open_photograph, write_photograph
from .registry import open_colorist
from .scores.job import ScoreSettings, score
from .scores.table import Scores
from .settings import ColorizeSettings

__all__ = [
    "Colored",
    "Colorist",
    "ColorizeSettings",
    "Hints",
    "Photograph",
    "Prediction",
    "ScoreSettings",
    "Scores",
    "colorize",
    "colorize_image",
    "from_points",
    "join_image",
    "open_colorist",
    "open_photograph",
    "read_hints",
    "score",
    "write_photograph",
]
