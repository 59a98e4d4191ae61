from .backbones import Backbone, Stage, build_backbone
from .color import lab_to_rgb, rgb_to_lab
from .colorizer import Colorizer
from .colorizing import ColorizeSettings, colorize, colorize_picture
from .errors import PictureError, UserError
from .exporting import ExportSettings, export
from .gamut import Gamut
from .importing import import_weights
from .inputs import FromRgb
from .objectives import Classification, Objective, Regression
from .pictures import Bundled, ClassFolder, Folder, Source
from .pretraining import pretrain
from .prior import estimate_prior, rebalancing_weights
from .recipe import PretrainSettings, load_pretrained

__all__ = [
    "Backbone",
    "Bundled",
    "ClassFolder",
    "Classification",
    "ColorizeSettings",
    "Colorizer",
    "ExportSettings",
    "Folder",
    "FromRgb",
    "Gamut",
    "Objective",
    "PictureError",
    "PretrainSettings",
    "Regression",
    "Source",
    "Stage",
    "UserError",
    "build_backbone",
    "colorize",
    "colorize_picture",
    "estimate_prior",
    "export",
    "import_weights",
    "lab_to_rgb",
    "load_pretrained",
    "pretrain",
    "rebalancing_weights",
    "rgb_to_lab",
]
