from .colorizing import ColorizeSettings, Coloured, colorize
from .colourists import Colourist, Hint, NetworkColourist, open_colourist
from .joining import join_picture
from .photographs import Photograph, open_photograph, write_photograph
from .scores.scoring import ScoreSettings, score
from .scores.table import Scores

__all__ = [
    "ColorizeSettings",
    "Coloured",
    "Colourist",
    "Hint",
    "NetworkColourist",
    "Photograph",
    "ScoreSettings",
    "Scores",
    "colorize",
    "join_picture",
    "open_colourist",
    "open_photograph",
    "score",
    "write_photograph",
]
