from .backbones import Backbone, Stage, build_backbone
from .backbones.contract import FromRgb
from .color import lab_to_rgb, rgb_to_lab
from .data import Bundled, ClassFolder, Folder, ImageDataset, LabeledShards, Shards
from .data.pack import PackSettings, pack
from .data.source import DataSettings
from .engine.signals import ExitStatus
from .errors import ImageError, UserError
from .gamut import Gamut
from .methods.colorization import Colorizer
from .methods.contract import Ingredients, Method
from .methods.hints import HintSettings, sample_hints
from .methods.objectives import Classification, Objective, Regression
from .plugins import load_plugins
from .pretrained import load_pretrained
from .prior import estimate_prior, rebalancing_weights
from .recipe import PretrainSettings
from .weights.exporter import ExportSettings, export
from .weights.importer import import_weights

__all__ = [
    "Backbone",
    "Bundled",
    "ClassFolder",
    "Classification",
    "Colorizer",
    "DataSettings",
    "ExitStatus",
    "ExportSettings",
    "Folder",
    "FromRgb",
    "Gamut",
    "HintSettings",
    "ImageDataset",
    "ImageError",
    "Ingredients",
    "LabeledShards",
    "Method",
    "Objective",
    "PackSettings",
    "PretrainSettings",
    "Regression",
    "Shards",
    "Stage",
    "UserError",
    "build_backbone",
    "estimate_prior",
    "export",
    "import_weights",
    "lab_to_rgb",
    "load_plugins",
    "load_pretrained",
    "pack",
    "rebalancing_weights",
    "rgb_to_lab",
    "sample_hints",
]
