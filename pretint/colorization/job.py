"""The job that colors photographs, its settings, and the contact sheet of the results."""

import contextlib
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pretext import roles
from pretext.contact_sheet import contact_sheet
from pretext.engine.memory import explain_memory_shortage
from pretext.engine.progress import progress
from pretext.errors import ImageError, UserError
from pretext.files import write_png
from pretext.gamut import TEMPERATURE
from pretext.methods.colorization import resample
from pretext.settings import to_plain
from pretint.colorization.merge import ColorSource, Prediction, Scaled, merge_image
from pretint.colorization.networks import LARGEST, MODELS, PALE, ColorRange, NetworkColorist
from pretint.colorization.paths import SHEET, STANDARD, ColorizeJob, FinishedResults, beside, list_jobs
from pretint.colorization.photographs import Format, Photograph, open_photograph, write_photograph
from pretint.colorization.photographs.read import MEGAPIXELS
from pretint.colorization.photographs.write import QUALITY, encode_photograph
from pretint.colorization.reference import ReferenceSettings
from pretint.colorization.registry import REFERENCE, SCRIBBLES, Colorist, colorist_file, open_colorist
from pretint.colorization.sample import draw, entropy, quantile_fields
from pretint.colorization.scribbles import ScribbleSettings

ROWS = 24
"""The number of images on the contact sheet."""
FOLDER = Path("colored")
"""The default folder of the results."""

_CELL = 320  # pixels
_HELD = 60e6  # pixels of photographs that wait for others of their size
_NAME = 255  # bytes


@dataclass
class ColorizeSettings:
    """Settings of ``colorize``.

    Args:
        out: folder for the colored images and the sheet that shows them (default: colored); - is standard output,
            which is also the default if the image is standard input.
        format: the format of the files: jpeg, png, webp, tiff; auto keeps the format of the image, or takes PNG if that
            format has no color.
        quality: the quality of JPEG and lossy WebP, 1 to 100.
        size: shorter side, in pixels, at which a network sees an image; 0 takes the size of its training. The result
            has the full resolution of the input.
        temperature: the temperature of a network's annealed mean: near 0 more vivid, 1 more cautious.
        saturation: factor on the colors: 0 is gray, 1 as predicted.
        samples: the number of further colorings of each image, drawn from the distribution that the network predicts.
        uncertainty: write beside each image how uncertain the network is at each pixel.
        hints: given colors of parts of a single image, a YAML file or an image of strokes: for scribbles, and for a
            network that takes them.
        first_frame: color the first frame of an animation, or the first of several pages; without it such a file is an
            error.
        megapixels: the largest image that is opened.
        sheet: write sheet.png, which shows the images side by side: gray, colored, and the original if it has color.
        batch: the number of images of one size that a network sees at once; 0 is 8 on a GPU, else 1.
        seed: the seed of the samples.
        device: auto (the GPU if there is one), cpu, cuda, ...
        reference: settings of coloring by a reference image.
        scribbles: settings of coloring by scribbles.
    """

    out: Path | None = roles.machine(None)
    format: Literal["auto", "jpeg", "png", "webp", "tiff"] = roles.science("auto")
    quality: int = roles.science(QUALITY, "[1, 100]")
    size: int = roles.science(0, f"[0, {LARGEST}]")
    temperature: float = roles.science(TEMPERATURE, "[0.01, inf)")
    saturation: float = roles.science(1.0, "[0, 10]")
    samples: int = roles.science(0, "[0, 100]")
    uncertainty: bool = roles.science(False)
    hints: Path | None = roles.science(None)
    first_frame: bool = roles.machine(False)
    megapixels: float = roles.machine(MEGAPIXELS, "(0, inf)")
    sheet: bool = roles.machine(True)
    batch: int = roles.machine(0, "[0, 1024]")
    seed: int = roles.seed(within="[0, 2^62)")
    device: str = roles.machine("auto")
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    scribbles: ScribbleSettings = field(default_factory=ScribbleSettings)

    def __post_init__(self) -> None:
        roles.check_ranges(self)


class ColorizeResult(NamedTuple):
    """The result of a call."""

    written: list[Path]
    """The colored images; samples and maps of uncertainty lie beside them. Empty for standard output."""
    sheet: Path | None
    skipped: list[ImageError]
    """The images without a result, with reasons."""
    notes: list[tuple[str, str]]
    """Notes on images (changes, and what could not be kept) and on the model (that its colors are useless)."""
    streamed: bool = False
    """Whether the result went to standard output."""
    stood: int = 0
    """The number of written images that an earlier call made."""


@explain_memory_shortage("lower size, batch or megapixels")
def colorize(model: str | Path, images: Sequence[Path], settings: ColorizeSettings) -> ColorizeResult:
    """Color image files, all images in folders, and standard input.

    Args:
        model: a run, a checkpoint, an exported .safetensors, or published weights of ECCV16 or SIGGRAPH17; or
            ``reference:IMAGE``, or ``scribbles``.
        images: files, folders, patterns; - is standard input. An image keeps its place below its folder.
        settings: how they are colored, and where the results go.

    Returns:
        The files that were written, and the images that have no result.

    Raises:
        UserError: a path does not exist, no image could be colored, a result would overwrite a file that is
            not ours, or the network cannot do what the settings need.
    """
    require_images(str(model), images)
    streamed = settings.out == STANDARD or (settings.out is None and list(images) == [STANDARD])
    if streamed and (len(images) != 1 or images[0].is_dir() or settings.samples or settings.uncertainty):
        raise UserError("standard output takes one image, without samples and uncertainty; name a folder with --out")
    if streamed and sys.stdout.isatty():
        raise UserError("an image cannot be shown in a terminal; redirect standard output, or name a folder with --out")
    is_reference, is_scribbles = str(model).startswith(REFERENCE), str(model) == SCRIBBLES
    of_networks = dict.fromkeys(("size", "temperature", "batch"), not (is_reference or is_scribbles))
    values, defaults = to_plain(settings), to_plain(ColorizeSettings())
    for key, is_used in {"reference": is_reference, "scribbles": is_scribbles, **of_networks}.items():
        if not is_used and values[key] != defaults[key]:
            raise UserError(f"--{key}: has no effect on {model}; leave it out")
    colorist = open_colorist(
        model, settings.device, settings.size, settings.temperature, settings.hints, settings.reference,
        settings.scribbles,
    )  # fmt: skip
    if (settings.samples or settings.uncertainty) and not colorist.has_distribution:
        raise UserError(
            f"{model}: this network predicts one color for each pixel, and no distribution to draw samples from; leave "
            "out --samples and --uncertainty, or use a network that learned classification"
        )
    memory = None
    if not streamed:
        science = roles.select(settings, "science", "seed")
        files = [] if is_scribbles else [colorist_file(model)]
        files += [Path(file) for file in (settings.hints, settings.reference.swatches) if file]
        memory = FinishedResults(settings.out or FOLDER, [str(model), science], files)
    return _Coloring(colorist, settings, memory, str(model)).run(images)


def require_images(model: str, images: Sequence[Path]) -> None:
    """Raise UserError if no images are named, for example because the model was forgotten: colorize photo.jpg."""
    if not images:
        raise UserError(
            f"no images are named after {model}; write MODEL IMAGE ...: {MODELS}; without a network: reference:IMAGE, "
            f"{SCRIBBLES}"
        )


def colorize_image(colorist: Colorist, image: Image.Image, saturation: float = 1.0) -> Image.Image:
    """Color one RGB image. The result has its L, except if a color is clipped because it is outside of sRGB."""
    lightness = Photograph.of(image).seen(colorist.seen_size(image.size))
    ab = colorist.predict(lightness, image.size).ab
    return merge_image(image, Scaled(colorist.enlarged(ab, lightness, image.size), saturation))


class SheetRow(NamedTuple):
    """A row of the sheet: small RGB images."""

    original: Image.Image
    colored: Image.Image


def draw_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    """Draw every image in gray and colored; if any original has color, the originals too."""
    images = [[ImageOps.grayscale(row.original).convert("RGB"), row.colored, row.original] for row in rows]
    titles = ["gray", "colored", "original"]
    if all(gray.tobytes() == original.tobytes() for gray, _, original in images):
        titles, images = titles[:2], [row[:2] for row in images]
    return contact_sheet(images, titles, cell=_CELL, across=1 + (len(images) > 4))


def open_small(file: Path) -> Image.Image:
    """Open an image file at the size of the sheet's cells; raises ImageError."""
    return reduced_to_cell(open_photograph(file, megapixels=math.inf, first_frame=True))


def reduced_to_cell(photograph: Photograph) -> Image.Image:
    """Reduce a photograph to the size of the sheet's cells."""
    width, height = photograph.size
    scale = min(1.0, _CELL / max(width, height))
    return photograph.reduced((max(1, round(width * scale)), max(1, round(height * scale))))


class _Opened(NamedTuple):
    """A photograph that waits to be colored."""

    job: ColorizeJob
    photograph: Photograph
    lightness: Tensor


class _Coloring:
    """One call: photographs are opened one by one, and colored when a batch of one seen size is complete."""

    def __init__(
        self, colorist: Colorist, settings: ColorizeSettings, memory: FinishedResults | None, model: str
    ) -> None:
        self.model, self.colors = model, ColorRange()
        self.colorist, self.settings, self.memory = colorist, settings, memory
        self.streamed = memory is None
        self.opened = contextlib.ExitStack()  # the memory, from the first result on if the folder is new
        self.batch = settings.batch or colorist.batch
        self.folder = settings.out or FOLDER
        self.waiting: dict[tuple[int, int], list[_Opened]] = {}
        self.originals: dict[Path, Image.Image] = {}
        self.done = ColorizeResult([], None, [], [], self.streamed)

    def run(self, images: Sequence[Path]) -> ColorizeResult:
        """Color all images."""
        jobs = self.jobs(images)
        if self.settings.hints and len(jobs) != 1:
            raise UserError(f"hints are for one image, but {len(jobs)} images are named; name only that image")
        with self.opened:
            if self.memory is not None and self.folder.is_dir():
                self.opened.enter_context(self.memory.open())
                for job in jobs:
                    self.memory.require_ours(self.results(job))
            left = [job for job in jobs if not self.is_done(job)]
            stood = len(jobs) - len(left)
            with progress("colorize", len(jobs), "images", done=stood) as advance:
                for number, job in enumerate(left, 1):
                    finished = self.open(job) + (self.flush() if number == len(left) else 0)
                    advance(finished, "")
            sheet = self.sheet(jobs)
        self.done = self.done._replace(stood=stood, sheet=sheet, notes=[*self.warnings(), *self.done.notes])
        if not self.done.written and not (self.streamed and not self.done.skipped):
            raise UserError(f"none of {len(jobs)} images could be colored; the first: {self.done.skipped[0]}")
        return self.done

    def warnings(self) -> list[tuple[str, str]]:
        """Return notes on a network whose colors are useless."""
        if not isinstance(self.colorist, NetworkColorist):  # one stroke may give one color
            return []
        uniform = "" if self.colors.is_gray else self.colors.describe_uniform()  # of gray results there is a note each
        return [(self.model, line) for line in (self.colorist.warning, uniform) if line]

    def sheet(self, jobs: Sequence[ColorizeJob]) -> Path | None:
        """Sort the written images by the jobs, and write the contact sheet of the first ones."""
        written = set(self.done.written)
        self.done.written[:] = [job.target for job in jobs if job.target in written]
        shown_jobs = [job for job in jobs if job.target in written][:ROWS]
        rows = [row for row in map(self.row, shown_jobs) if row] if self.settings.sheet else []
        if not rows:
            return None
        sheet = self.folder / SHEET
        write_png(sheet, draw_sheet(rows))
        return sheet

    def is_done(self, job: ColorizeJob) -> bool:
        """Whether an earlier call colored this image in the same way."""
        if self.memory is None or job.source == STANDARD:
            return False
        record = self.memory.find(job.source, self.results(job))
        if record is None:
            return False
        self.done.written.append(job.target)
        self.done.notes.extend((str(job.source), note) for note in record["notes"])
        self.colors.add_range(record["ab"])
        return True

    def row(self, job: ColorizeJob) -> SheetRow | None:
        """Return an image's row of the sheet, from its files: the same for each call, whichever colored it."""
        try:
            return SheetRow(self.originals.get(job.source) or open_small(job.source), open_small(job.target))
        except ImageError:  # for example too little memory now; the result is valid
            return None

    def results(self, job: ColorizeJob) -> list[Path]:
        """Return all result paths of an image, the colored one first."""
        return [job.target, *(beside(job.target, *other) for other in self.others())]

    def others(self) -> list[tuple[str, str]]:
        """Return the further results of each image, as ``beside`` takes them."""
        samples = [(f"sample{number}", "") for number in range(1, self.settings.samples + 1)]
        return samples + ([("uncertainty", ".png")] if self.settings.uncertainty else [])

    def jobs(self, images: Sequence[Path]) -> list[ColorizeJob]:
        """Return the jobs of the images."""
        format: Format | None = None if self.settings.format == "auto" else self.settings.format
        if self.streamed:
            return [ColorizeJob(images[0], STANDARD, format or "png")]
        return list_jobs(
            images, self.folder, format, self.others(), self.folder / SHEET if self.settings.sheet else None
        )

    def open(self, job: ColorizeJob) -> int:
        """Open an image, and color its batch if that is complete. Return the number of images that are finished."""
        settings = self.settings
        key = "standard input" if job.source == STANDARD else str(job.source)
        try:
            if any(len(os.fsencode(target.name)) > _NAME for target in self.results(job)):
                raise ImageError(
                    key, f"its name is too long: the name of a result has at most {_NAME} bytes; rename it"
                )
            file = sys.stdin.buffer.read() if job.source == STANDARD else job.source
            photograph = open_photograph(file, key, settings.megapixels, settings.first_frame)
        except ImageError as error:
            self.done.skipped.append(error)
            return 1
        self.done.notes.extend((key, note) for note in photograph.notes)
        seen = self.colorist.seen_size(photograph.size)
        group = self.waiting.setdefault(seen, [])
        group.append(_Opened(job, photograph, photograph.seen(seen)))
        if len(group) >= self.batch:
            return self.color(self.waiting.pop(seen))
        pixels = sum(math.prod(each.photograph.size) for batch in self.waiting.values() for each in batch)
        return self.flush() if pixels > _HELD else 0

    def flush(self) -> int:
        """Color all images that wait."""
        groups, self.waiting = self.waiting, {}
        return sum(self.color(group) for group in groups.values())

    def color(self, group: list[_Opened]) -> int:
        """Color images of one seen size. Return their number."""
        lightness = torch.cat([opened.lightness for opened in group])
        try:
            predicted = self.colorist.predict(lightness, group[0].photograph.size)
        except UserError as error:
            # Hints or swatches do not fit this photograph; a colorist with these takes photographs one by one.
            self.done.skipped.extend(ImageError(opened.photograph.key, str(error)) for opened in group)
            return len(group)
        for number, opened in enumerate(group):
            try:
                logits = None if predicted.logits is None else predicted.logits[number : number + 1]
                self.finish(opened, predicted._replace(ab=predicted.ab[number : number + 1], logits=logits))
            except ImageError as error:
                self.done.skipped.append(error)
            except MemoryError:
                self.done.skipped.append(ImageError(opened.photograph.key, "larger than memory allows"))
        return len(group)

    def finish(self, opened: _Opened, predicted: Prediction) -> None:
        """Write all results of one image."""
        job, photograph, settings = opened.job, opened.photograph, self.settings
        ab = predicted.ab
        if not bool(torch.isfinite(ab).all()):
            message = "the network predicted colors that are NaN or infinite; are its weights damaged?"
            raise ImageError(photograph.key, message)
        ab_range = self.colors.add(ab)
        if self.memory is not None:
            if not self.memory.is_open:
                self.opened.enter_context(self.memory.open())
            self.memory.begin(self.results(job))
        colors: ColorSource = self.colorist.enlarged(ab, opened.lightness, photograph.size)
        ab = ab * settings.saturation
        notes = self.write(job, photograph, colors if settings.saturation == 1 else Scaled(colors, settings.saturation))
        if settings.saturation and float(ab.abs().max()) < PALE:
            notes.append("the result is gray: almost no color was predicted")
        self.write_others(job, photograph, predicted, opened.lightness.shape[-2:])
        self.done.notes.extend((photograph.key, note) for note in notes)
        if self.memory is None:
            return
        self.memory.add(job.source, self.results(job), [*photograph.notes, *notes], ab_range)
        self.done.written.append(job.target)
        if job.source == STANDARD:  # it cannot be read again
            self.originals[STANDARD] = reduced_to_cell(photograph)

    def write(self, job: ColorizeJob, photograph: Photograph, colors: ColorSource) -> list[str]:
        """Write the colored image. Return notes."""
        if not self.streamed:
            return write_photograph(photograph, colors, job.target, job.format, self.settings.quality)
        formats: dict[str, Format] = {"JPEG": "jpeg", "PNG": "png", "WEBP": "webp", "TIFF": "tiff"}
        format = formats.get(photograph.format, "png") if self.settings.format == "auto" else job.format
        content, notes = encode_photograph(photograph, colors, format, self.settings.quality)
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return notes

    def write_others(self, job: ColorizeJob, photograph: Photograph, predicted: Prediction, seen: torch.Size) -> None:
        """Write samples and the map of uncertainty, if the colorist predicts a distribution."""
        settings, logits, stride = self.settings, predicted.logits, predicted.stride
        if logits is None:
            return
        size = (logits.shape[2], logits.shape[3])
        fields = quantile_fields(2 * settings.samples, size, settings.seed)
        for number in range(settings.samples):
            quantiles = fields[2 * number : 2 * number + 2]
            ab = draw(logits, quantiles, settings.temperature, predicted.step) * settings.saturation
            target = beside(job.target, f"sample{number + 1}")
            write_photograph(photograph, resample(ab, stride, seen), target, job.format, settings.quality)
        if settings.uncertainty:
            uncertainty = resample(entropy(logits)[:, None] / math.log(logits.shape[1]), stride, seen)[0, 0]
            image = Image.fromarray(np.rint(uncertainty.cpu().numpy() * 255).astype(np.uint8))
            write_png(beside(job.target, "uncertainty", ".png"), image)
