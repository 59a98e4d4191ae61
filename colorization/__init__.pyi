from .colorizing import Coloured, colorize, colorize_picture
from .colourists import Colourist, Prediction
from .hints import Hints, from_points, read_hints
from .joining import join_picture
from .opening import open_colourist
from .photographs import Photograph, open_photograph, write_photograph
from .scores.scoring import ScoreSettings, score
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
