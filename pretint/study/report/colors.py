"""The colors of a study's variants: their joint scores, and a sheet of images that every variant colors.

Both need the networks and the images. The results are kept in the study's folder: they are computed again only when
more cells are finished, and can still be shown when the images are gone.
"""

import contextlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from torch.nn import functional as F

from pretext.color import rgb_to_lightness
from pretext.contact_sheet import contact_sheet
from pretext.data import ImageDataset, open_dataset
from pretext.data.batches import EvalDataset
from pretext.engine.run import run_settings
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.methods.colorization import join
from pretext.settings import settings_from
from pretint.colorization.networks import open_network
from pretint.colorization.scores.job import ScoreSettings, score
from pretint.colorization.scores.table import ScoreMetric, ScoreRow, Scores, parse_scores
from pretint.study.cells import CellStore, StudyCell, StudyPlan

MEASURE = "auc_balanced"
"""The metric in a study's main table."""
KEPT = "colors.json"
SHEET = "figures.png"
_FORMAT = "pretint study colors 3"
_SHEETS = 1  # raised when a sheet changes its look
_SCORES = "scores"  # a folder in the study's: results for each image of methods that are no run
_COUNT = 8
_SIDES = 128, 224  # pixels of an image, at least and at most
_WIDE = 1500  # pixels that a sheet keeps to, if its images stay large enough to be seen
_CELLS = 96, 160
_LETTER = 7.2  # pixels
_MADE_OF = "made of"  # a text in the file


class ColorScores(NamedTuple):
    """The scores of all variants that color, by one evaluation."""

    evaluation: str
    scores: Scores | None
    """A line for each variant, and for the baselines; None if there are none."""
    remark: str
    """The reason why there are none, or why they are from an earlier call; else empty."""
    seeds: dict[str, tuple[int, ...]]
    """By variant, the seeds that its line joins."""

    @property
    def against(self) -> str:
        """The variant that the others are compared with."""
        return self.scores.against if self.scores else ""

    @property
    def metric(self) -> ScoreMetric | None:
        """The metric in the study's main table."""
        return next((metric for metric in self.scores.metrics if metric.key == MEASURE), None) if self.scores else None

    def line(self, variant: str) -> ScoreRow | None:
        """Return the line of a variant; a baseline of the same name is not one."""
        if not self.scores or variant not in self.seeds:
            return None
        return next((line for line in self.scores.lines if line.method == variant), None)

    @property
    def about(self) -> str:
        """A description of the metric in the study's main table."""
        if not self.scores or not self.metric:
            return ""
        auc = next((metric.about.removesuffix(", %") for metric in self.scores.metrics if metric.key == "auc"), "")
        return f"{self.metric.title}, {auc}, {self.metric.about.removeprefix('the same, ')}; {self.scores.title}"


def colors(plan: StudyPlan, shelf: CellStore, folder: Path) -> tuple[ColorScores, ...]:
    """Return the scores of every evaluation of colors, as far as they can be computed.

    Args:
        plan: plan of the study.
        shelf: folder of its cells.
        folder: folder of the study, where the scores are kept.
    """
    stored: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # not written yet, or cut where the folder was copied
        content = json.loads((folder / KEPT).read_text(encoding="utf-8"))
        stored = content["evaluations"] if content["format"] == _FORMAT else {}
    names = [name for name, entry in plan.evaluations.items() if entry.get("command") == "score"]
    results = []
    for name in names:
        finished: dict[str, list[StudyCell]] = {}
        for variant in plan.variants:
            if cells := [cell for cell in plan.of(variant, name) if shelf.is_finished(cell)]:
                finished[variant] = cells
        if not finished:
            results.append(ColorScores(name, None, "nothing is finished", {}))
            continue
        # Compare with the variant that the study's file names; else with the one that most variants are compared
        # with, if it colors; else with the first.
        against = str(plan.evaluations[name].get("against", ""))
        if against not in finished:
            named = Counter(plan.against[variant] for variant in finished if plan.against.get(variant) in finished)
            against = named.most_common(1)[0][0] if named else next(iter(finished))
        of = [against, {variant: [[cell.seed, cell.key] for cell in cells] for variant, cells in finished.items()}]
        remark = ""
        if name not in stored or stored[name]["of"] != of:
            try:
                runs = {cell.key: str(shelf.folder(cell)) for cell in plan.cells}
                seeds = {variant: [runs[cell.after] for cell in cells] for variant, cells in finished.items()}
                settings = settings_from(ScoreSettings, next(iter(finished.values()))[0].call["settings"], str(folder))
                settings.out, settings.against = str(folder / _SCORES), against
                scores = score([run for group in seeds.values() for run in group], settings, seeds)
                stored[name] = {"of": of, "scores": scores.to_plain()}
                write_atomically(folder / KEPT, json.dumps({"format": _FORMAT, "evaluations": stored}).encode())
            except UserError as error:
                remark = str(error)
        no_scores = ColorScores(name, None, f"cannot be scored: {remark}", {})
        results.append(_parse_stored(name, stored.get(name), remark) or no_scores)
    return tuple(results)


def _parse_stored(name: str, stored: Any, remark: str) -> ColorScores | None:
    """Return the colors in the stored file; None if there are none.

    Args:
        name: name of the evaluation.
        stored: its entry in the file.
        remark: why they could not be computed today.
    """
    if stored is None:
        return None
    seeds = {variant: tuple(seed for seed, _ in cells) for variant, cells in stored["of"][1].items()}
    scores = parse_scores(stored["scores"], Path())
    again = f"these are of an earlier time, as they cannot be scored anew: {remark}" if remark else ""
    return ColorScores(name, scores, again, seeds)


class Figures(NamedTuple):
    """A sheet of images."""

    file: Path | None
    about: str
    remark: str
    """The reason why there is none, or why it is from an earlier call; else empty."""


def figures(plan: StudyPlan, shelf: CellStore, folder: Path) -> Figures:
    """Draw the sheet, if it is not drawn already, from the first finished seed of each variant that colors.

    Args:
        plan: plan of the study.
        shelf: folder of its cells.
        folder: folder of the study, where the sheet is kept.
    """
    runs: dict[str, Path] = {}
    for variant in plan.variants:
        for cell in plan.of(variant, ""):
            if variant in runs or not shelf.is_finished(cell):
                continue
            with contextlib.suppress(UserError):  # the costs have a remark about it
                settings = run_settings(shelf.folder(cell), {"method.name": str, "data.source": object})
                if settings["method"]["name"] == "colorization":
                    runs[variant] = shelf.folder(cell)
    file = folder / SHEET
    if not runs:
        return Figures(None, "", "no variant that colors is finished")
    # The study's own images, else those that colors are scored on, else those of the pretraining.
    scored = [str(entry.get("images", "")) for entry in plan.evaluations.values() if entry.get("command") == "score"]
    trained = run_settings(next(iter(runs.values())))["data"]["source"]
    trained = next(iter(trained), "") if isinstance(trained, dict) else str(trained)
    name = next(name for name in (plan.figures, *scored, trained, "bundled:test") if name)
    about = f"images of {name}"
    try:
        source = open_dataset(name)
        made_of = json.dumps([_SHEETS, name, source.digest(), {variant: run.name for variant, run in runs.items()}])
        if _read_origin(file) != made_of:
            text = PngInfo()
            text.add_itxt(_MADE_OF, made_of)
            data = io.BytesIO()
            _draw_sheet(source, runs).save(data, "PNG", pnginfo=text)
            write_atomically(file, data.getvalue())
    except UserError as error:
        if _read_origin(file) is None:
            return Figures(None, about, f"they cannot be had: {error}")
        return Figures(file, about, f"a sheet of an earlier time, as it cannot be drawn anew: {error}")
    return Figures(file, about, "")


def _read_origin(file: Path) -> str | None:
    """Return the description of a sheet's inputs; None if there is no sheet."""
    try:
        with Image.open(file) as sheet:
            return str(sheet.info.get(_MADE_OF, ""))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _draw_sheet(source: ImageDataset, runs: Mapping[str, Path]) -> Image.Image:
    """Return a sheet: a row for each image, in gray, as each network colors it, and in its own colors."""
    networks = {variant: open_network(run, device="cpu") for variant, run in runs.items()}
    side = min(max(_SIDES[0], *(network.size for network in networks.values())), _SIDES[1])
    rows = []
    for view in _views(source, side):
        lightness = rgb_to_lightness(view[None])
        images = [join(lightness, torch.zeros(1, 2, side, side))]
        for network in networks.values():
            across, down = network.seen_size((side, side))
            seen = F.interpolate(lightness, (down, across), mode="bilinear", antialias=True)
            ab = F.interpolate(network(seen).float(), (side, side), mode="bilinear")
            images.append(join(lightness, ab))
        images.append(view[None] / 255)
        arrays = [(image[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy() for image in images]
        rows.append([Image.fromarray(array) for array in arrays])
    if not rows:
        raise UserError("none of these images can be read")
    cell = min(max(_WIDE // (len(networks) + 2), _CELLS[0]), _CELLS[1])
    letters = int(cell / _LETTER)
    titles = ["gray", *networks, "original"]
    titles = [title if len(title) <= letters else f"{title[: letters - 2]}.." for title in titles]
    return contact_sheet(rows, titles, cell=cell, across=2 if 2 * cell * len(titles) <= _WIDE else 1)


def _views(source: ImageDataset, side: int) -> list[Tensor]:
    """Return some images from all over the source, uint8 (3, side, side), without those that cannot be read."""
    views = EvalDataset(source, side)
    spread = np.unique(np.linspace(0, len(source) - 1, min(len(source), 4 * _COUNT)).astype(int)).tolist()
    order = [index for start in range(4) for index in spread[start::4]]
    images: list[Tensor] = []
    for index in order:
        image = views[index].rgb
        if image is not None:
            images.append(image)
        if len(images) == _COUNT:
            break
    return images
