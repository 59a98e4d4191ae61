from .hints import Hints, from_points, read_hints
from .job import Colored, ColorizeSettings, colorize, colorize_image
from .merge import Prediction, join_image
from .photographs import Photograph, open_photograph, write_photograph
from .registry import Colorist, open_colorist
from .scores.job import ScoreSettings, score
from .scores.table import Scores

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
