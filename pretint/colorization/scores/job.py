"""The job of `pretint score`: scores of several methods to color the same images."""

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pretext import roles
from pretext.data import ImageDataset, LabeledDataset, open_dataset, open_labeled
from pretext.data.channels import channels_of
from pretext.data.source import require_single_labels
from pretext.engine.device import pick_device, versions
from pretext.engine.memory import explain_memory_shortage
from pretext.errors import UserError
from pretext.gamut import TEMPERATURE, Gamut
from pretext.prior import load_prior, rebalancing_weights
from pretext.scale import SRGB
from pretext.store import LOCK, lock
from pretint.colorization.networks import LARGEST, ColorRange
from pretint.colorization.scores.evaluators import Evaluators, open_panel
from pretint.colorization.scores.images import ScoredImages
from pretint.colorization.scores.ledger import Ledger, slug
from pretint.colorization.scores.methods import BASELINES, COLDEST, ScoredMethod, open_method
from pretint.colorization.scores.record import record_features, record_scores
from pretint.colorization.scores.table import (
    INTERVAL,
    METRICS,
    MethodOutcomes,
    RealFeatures,
    ScoreRow,
    Scores,
    Summary,
    average_outcomes,
    known,
    titles,
)
from transfer.layout import OutputFormat

FOLDER = "scores"
"""The folder of a run that holds its scores."""

_RECORDS = 2  # version of records; raise it when their meaning changes


@dataclass
class ScoreSettings:
    """Settings of ``score``.

    Args:
        images: a folder, tar shards, "bundled:test", ..., see docs/data.md; with labels for a classifier.
        out: folder for the scores; by default the folder scores in the first run that is named.
        size: side in pixels of the square, cut from the middle of each image, that all methods see.
        most: the number of images, drawn by the seed; 0 takes all.
        gray_threshold: an image in which no |a| or |b| exceeds it, in Lab units, is left out.
        temperature: the temperature of the networks' annealed mean; 0.01 or more.
        prior: a .npy file, such as the published prior_probs.npy, whose inverse weighs the pixels of the balanced
            AuC; by default the frequencies of the bins in the scored images.
        lpips: a file of torchvision's weights of AlexNet or VGG-16; "hub" fetches AlexNet's. Without it, no LPIPS.
        inception: a file of weights of Inception v3, from pytorch-fid or torchvision; "hub" fetches the first.
            Without it, no FID.
        disjoint: real images that are not among those scored, for the FID to disjoint images; by default a method's
            images of one half are compared with the truth of the other half.
        classifier: a timm model and its weights, MODEL:FILE; MODEL alone fetches its weights. Without it, no top-1.
        against: the method that the others are compared with; by default the first that is named.
        format: terminal; csv; markdown; latex (booktabs).
        seed: the seed of the order of images, of the random colors and of the hints.
        batch: the number of images that are scored at once.
        device: auto (the GPU if there is one), cpu, cuda, ...
    """

    images: str = roles.content("")
    out: str = roles.machine("")
    size: int = roles.science(256, f"[16, {LARGEST}]")
    most: int = roles.science(0, "[0, inf)")
    gray_threshold: float = roles.science(5.0, "[0, inf)")
    temperature: float = roles.science(TEMPERATURE, f"[{COLDEST}, inf)")
    prior: str = roles.science("")
    lpips: str = roles.science("")
    inception: str = roles.science("")
    disjoint: str = roles.content("")
    classifier: str = roles.content("")
    against: str = roles.machine("")
    format: OutputFormat = roles.machine("terminal")
    seed: int = roles.seed()
    batch: int = roles.machine(8, "[1, inf)")
    device: str = roles.machine("auto")

    def __post_init__(self) -> None:
        roles.check_ranges(self)
        if self.disjoint and not self.inception:
            raise UserError("disjoint is for FID, which needs weights of Inception; name them with --inception")
        if self.disjoint and self.disjoint == self.images:
            raise UserError(f"disjoint is {self.disjoint}, the images that are scored; name others, or none")


def require_images(settings: ScoreSettings) -> None:
    """Raise an error if the settings name no images.

    Raises:
        UserError: none are named.
    """
    if not settings.images:
        raise UserError("no images are named; give a folder or another source of them with --images")


@explain_memory_shortage("lower size, or score fewer models at once")
def score(
    models: Sequence[str | Path], settings: ScoreSettings, seeds: Mapping[str, Sequence[str]] | None = None
) -> Scores:
    """Score networks on images, beside gray, random colors and the truth.

    Scores of each image are saved at once. If a call was stopped, the next call continues from them, and a later call
    with another network reuses them. The table is also written as a JSON file.

    Args:
        models: see ``open_method``. The baselines are in every table, and may be named too.
        settings: the images, and how they are scored.
        seeds: label -> the models that are seeds of one network. They share one line with their mean.
            ``settings.against`` may be a label.

    Raises:
        UserError: a method, the images or weights cannot be opened; there is nothing to score.
        SystemExit, KeyboardInterrupt: a signal requested a stop.
    """
    require_images(settings)
    device = pick_device(settings.device)
    source = open_labeled(settings.images) if settings.classifier else open_dataset(settings.images)
    if (channels := channels_of(source)) not in ((), SRGB):
        raise UserError(f"images: {settings.images} has channels {', '.join(channels)}; give photographs in color")
    weights: NDArray[np.float64] | None = None
    if settings.prior:
        weights = rebalancing_weights(load_prior(Path(settings.prior), Gamut()), uniform=0).numpy()
    labels, classes = None, []
    if settings.classifier:
        assert isinstance(source, LabeledDataset)
        labels = require_single_labels(
            source.labels, f"{settings.images}: several classes an image; top-1 needs one of each"
        )
        classes = source.classes
    panel = open_panel(settings.lpips, settings.inception, settings.classifier, labels, classes, device)
    by_word = _open_methods(list(dict.fromkeys([*map(str, models), *BASELINES])), settings, device)
    methods = list(by_word.values())
    groups = {
        label: [by_word[word].name for word in words if word in by_word] for label, words in (seeds or {}).items()
    }
    against = settings.against
    if not groups.get(against):
        matches = [method.name for word, method in by_word.items() if against in ("", word, method.name)]
        if not matches:
            raise UserError(f"against is {against}, which is not scored; take {', '.join(by_word)}")
        against = matches[0]
    runs = [method.home / FOLDER for method in methods if method.home]
    if not settings.out and not runs:
        raise UserError("no run is named whose folder could hold the scores; name a folder for them with --out")
    out = Path(settings.out) if settings.out else runs[0]
    folders = [method.home / FOLDER if method.home else out for method in methods]
    identity = _identity(settings, settings.images, source)
    with ExitStack() as locks:
        locks.enter_context(warnings.catch_warnings())  # here, because filters apply to all threads
        warnings.filterwarnings("ignore", module="PIL")  # about odd metadata: unreadable images are listed
        # Every process takes the locks in one order, so that no two wait for each other.
        for folder in sorted({folder.resolve() for folder in (out, *folders)}):
            locks.enter_context(lock(folder / LOCK, "scoring there", wait=True))
        shared = identity | {"judges": [evaluator.digest for evaluator in panel.present]}
        ledgers = [
            Ledger(folder, method.name, shared | {"scored": method.identity}, panel.width)
            for folder, method in zip(folders, by_word.values(), strict=True)
        ]
        circle = _circle(settings, source, Ledger(out, "images", identity))
        record_scores(circle, methods, ledgers, panel, settings.batch, device)
        if len(circle.kept) < 2:
            skipped = circle.skipped
            counts = f"{circle.gray} of {len(circle)} images are gray, {len(skipped)} cannot be read"
            first = f" (the first: {': '.join(skipped[0])})" if skipped else ""
            raise UserError(f"{settings.images}: {counts}{first}; a score needs two or more in color")
        disjoint = _disjoint(settings, out, panel, circle, device)
        lines = _lines(methods, ledgers, circle, panel, weights, disjoint, against, groups)
        notes = list(panel.missing)
        for method, ledger in zip(methods, ledgers, strict=True):
            if method.identity["method"] != "network":  # the gray baseline may be uniform
                continue
            colors = ColorRange()
            for index in circle.kept:
                colors.add_range(ledger[index]["ab"])
            notes += [f"{method.name}: {line}" for line in (method.warning, colors.describe_uniform()) if line]
        scores = _scores(settings, circle, lines, panel, disjoint, against, identity, out, tuple(notes))
        scores.write()
    return scores


class _Disjoint(NamedTuple):
    """Features of other real images."""

    rows: NDArray[np.float32] | None
    about: str


def _open_methods(words: Sequence[str], settings: ScoreSettings, device: torch.device) -> dict[str, ScoredMethod]:
    """Open methods, each once (a run and its newest checkpoint are one), by the word that named it.

    Where two methods would be shown by one name, both are shown as they were named.
    """
    distinct: dict[tuple[str, Path | None], tuple[str, ScoredMethod]] = {}
    for word, method in [(word, open_method(word, device, settings.temperature, settings.seed)) for word in words]:
        home = method.home.resolve() if method.home else None
        distinct.setdefault((json.dumps(method.identity, sort_keys=True), home), (word, method))
    names = [method.name for _, method in distinct.values()]
    return {
        word: method if names.count(method.name) == 1 else method._replace(name=word)
        for word, method in distinct.values()
    }


def _identity(settings: ScoreSettings, name: str, source: ImageDataset) -> dict[str, Any]:
    """Return what an image's record depends on, except the method and the evaluators."""
    return {
        "records": _RECORDS,
        "images": name,
        "digest": source.digest(),
        **{key: getattr(settings, key) for key in ("size", "most", "gray_threshold", "seed")},
    }


def _circle(settings: ScoreSettings, source: ImageDataset, seen: Ledger) -> ScoredImages:
    return ScoredImages(source, settings.size, settings.gray_threshold, settings.seed, settings.most, seen)


def _disjoint(
    settings: ScoreSettings, out: Path, panel: Evaluators, scored: ScoredImages, device: torch.device
) -> _Disjoint:
    """Return features of real images that are not scored; none if the other half of the scored ones is used."""
    if panel.features is None or not settings.disjoint:
        return _Disjoint(None, "one half of the method's images, to the truth of the other half")
    source = open_dataset(settings.disjoint)
    identity = _identity(settings, settings.disjoint, source)
    circle = _circle(settings, source, Ledger(out, "disjoint-images", identity))
    ledger = Ledger(out, "disjoint", identity | {"judges": panel.features.digest}, panel.width)
    record_features(circle, ledger, panel.features, settings.batch, device)
    scored_pixels = {scored.seen[index]["pixels"] for index in scored.kept}
    disjoint = [index for index in circle.kept if circle.seen[index]["pixels"] not in scored_pixels and index in ledger]
    if len(disjoint) < 2:
        raise UserError(f"{settings.disjoint}: no two images in color that are not among those scored; name others")
    left_out = len(circle.kept) - len(disjoint)
    about = f"to {len(disjoint):,} images of {settings.disjoint}"
    return _Disjoint(ledger.rows(disjoint), about + (f" ({left_out:,} that are scored left out)" if left_out else ""))


def _lines(
    methods: Sequence[ScoredMethod],
    ledgers: Sequence[Ledger],
    circle: ScoredImages,
    panel: Evaluators,
    weights: NDArray[np.float64] | None,
    disjoint: _Disjoint,
    against: str,
    groups: Mapping[str, Sequence[str]],
) -> tuple[ScoreRow, ...]:
    """Return the lines of the table: the groups of seeds, then the methods that are in none."""
    outcomes: dict[str, MethodOutcomes] = {}
    bins = len(Gamut(neighbors=1))
    pixels: NDArray[np.int64] = np.empty((0, bins), np.int64)
    for method, ledger in zip(methods, ledgers, strict=True):
        rows = ledger.rows(circle.kept) if panel.width else None
        outcomes[method.name], pixels = known([ledger[index] for index in circle.kept], bins, rows)
    truth = outcomes["truth"].features
    means = {label: average_outcomes([outcomes[name] for name in names]) for label, names in groups.items() if names}
    summary = Summary(
        {**outcomes, **means}, pixels, weights, None if truth is None else RealFeatures(truth, disjoint.rows)
    )
    grouped = {name for names in groups.values() for name in names}
    by_name = {method.name: method for method in methods}
    lines = [(label, by_name[names[0]], names) for label, names in groups.items() if names]
    lines += [(method.name, method, [method.name]) for method in methods if method.name not in grouped]
    return tuple(
        ScoreRow(
            label,
            f"{len(names)} seeds, {method.about}" if len(names) > 1 else method.about,
            method.identity if len(names) == 1 else {"seeds": [by_name[name].identity for name in names]},
            summary.scores(label),
            {} if label == against else summary.differences(label, against),
            summary.spreads(names),
        )
        for label, method, names in lines
    )


def _scores(
    settings: ScoreSettings,
    circle: ScoredImages,
    lines: tuple[ScoreRow, ...],
    panel: Evaluators,
    disjoint: _Disjoint,
    against: str,
    identity: dict[str, Any],
    out: Path,
    notes: tuple[str, ...],
) -> Scores:
    """Return the table, with its metrics described as they were measured, and the path of its file."""
    count, skipped = len(circle.kept), circle.skipped
    about: dict[str, str] = {}
    if settings.prior:
        about["auc_balanced"] = f"the same, each pixel by the inverse of {Path(settings.prior).name} at its true bin, %"
    if panel.lpips is not None:
        about["lpips"] = panel.lpips.about
    if panel.features is not None:
        bias = "biased upwards, the more the fewer images: compare only at the same n"
        about["fid_same"] = f"to the truth of the same {count:,} images; {panel.features.about}; {bias}"
        halves = f" ({(count + 1) // 2:,} and {count // 2:,})" if disjoint.rows is None else ""
        about["fid_disjoint"] = f"{disjoint.about}{halves}; {bias}"
    if panel.classifier is not None:
        about["top1"] = f"of {panel.classifier.about}, %"
    metrics = tuple(metric._replace(about=about.get(metric.key, metric.about)) for metric in METRICS)
    shown = [metric for metric in metrics if any(metric.key in line.scores for line in lines)]
    facts = {
        **identity,
        "n": count,
        "n_gray": circle.gray,
        "n_unread": len(skipped),
        "prior": settings.prior,
        "versions": versions(),
    }
    left_out = f"left out: {circle.gray:,} gray (no |a| or |b| above {settings.gray_threshold:g}), "
    footer = [f"{left_out}{len(skipped):,} that cannot be read", INTERVAL, *titles(shown)]
    footer += [f"{line.method}: {line.about}" for line in lines]
    digests = [evaluator.digest for evaluator in panel.present]
    hashed = json.dumps([facts, {line.method: line.identity for line in lines}, against, digests])
    file = out / f"{slug(settings.images)}-{hashlib.sha256(hashed.encode()).hexdigest()[:12]}.json"
    return Scores(lines, metrics, against, facts, tuple(footer), notes, tuple(skipped), file)
