"""The settings of coloring photographs."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pretext.errors import UserError
from pretext.gamut import TEMPERATURE
from pretint.colorization.methods.reference import ReferenceSettings
from pretint.colorization.methods.scribbles import ScribbleSettings
from pretint.colorization.networks import LARGEST
from pretint.colorization.photographs.read import MEGAPIXELS
from pretint.colorization.photographs.write import QUALITY


@dataclass
class ColorizeSettings:
    """How images are colored.

    Args:
        out: folder for the colored images and the sheet that shows them (default: colored); - is standard output,
            which is also the default where the image is standard input.
        format: of the files: jpeg, png, webp, tiff; auto takes the image's own, or PNG where that has no color.
        quality: of JPEG and lossy WebP, 1 to 100.
        size: shorter side, in pixels, at which a network sees an image; 0 takes the size at which it
            was trained to. The result has the full resolution of the input.
        temperature: of a network's annealed mean: toward 0 more vivid, 1 more cautious.
        saturation: factor on the colors: 0 is gray, 1 as predicted.
        samples: how many more colorings of each image are drawn from what the network holds likely.
        uncertainty: write beside each image how unsure the network is of each place.
        hints: colors given in places of a single image, a YAML file or an image of strokes: for scribbles, and
            for a network that takes them.
        first_frame: of an animation or of several pages color the first; else it is refused.
        megapixels: the largest image that is opened.
        sheet: write sheet.png, the images side by side: gray, colored, and original where one has color.
        batch: how many images of one size a network sees at once; 0 is 8 on a GPU, else 1.
        seed: of the samples.
        device: auto (the GPU if there is one), cpu, cuda, ...
        reference: how colors are taken from a reference image.
        scribbles: how they spread from scribbles.
    """

    out: Path | None = None
    format: Literal["auto", "jpeg", "png", "webp", "tiff"] = "auto"
    quality: int = QUALITY
    size: int = 0
    temperature: float = TEMPERATURE
    saturation: float = 1.0
    samples: int = 0
    uncertainty: bool = False
    hints: Path | None = None
    first_frame: bool = False
    megapixels: float = MEGAPIXELS
    sheet: bool = True
    batch: int = 0
    seed: int = 0
    device: str = "auto"
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    scribbles: ScribbleSettings = field(default_factory=ScribbleSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.size <= LARGEST:
            raise UserError(f"size is {self.size}: it must lie in [0, {LARGEST}]")
        if not 0.01 <= self.temperature < math.inf:
            raise UserError(f"temperature is {self.temperature}: it must be 0.01 or more, and finite")
        if not 0 <= self.saturation <= 10:
            raise UserError(f"saturation is {self.saturation}: it must lie in [0, 10]")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality is {self.quality}: it must lie in [1, 100]")
        if not 0 <= self.samples <= 100:
            raise UserError(f"samples is {self.samples}: it must lie in [0, 100]")
        if not 0 < self.megapixels < math.inf:
            raise UserError(f"megapixels is {self.megapixels}: it must be above 0, and finite")
        if not 0 <= self.batch <= 1024:
            raise UserError(f"batch is {self.batch}: it must lie in [0, 1024]")
        if not 0 <= self.seed < 2**62:
            raise UserError(f"seed is {self.seed}: it must lie in [0, 2^62)")
