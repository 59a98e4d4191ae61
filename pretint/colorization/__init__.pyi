from .hints import Hints, from_points, read_hints
from .job import ColorizeResult, ColorizeSettings, colorize, colorize_image
from .merge import Prediction, merge_image
from .photographs import Photograph, open_photograph, write_photograph
from .registry import Colorist, open_colorist
from .scores.job import ScoreSettings, score
from .scores.table import Scores

__all__ = [
    "Colorist",
    "ColorizeResult",
    "ColorizeSettings",
    "Hints",
    "Photograph",
    "Prediction",
    "ScoreSettings",
    "Scores",
    "colorize",
    "colorize_image",
    "from_points",
    "merge_image",
    "open_colorist",
    "open_photograph",
    "read_hints",
    "score",
    "write_photograph",
]
