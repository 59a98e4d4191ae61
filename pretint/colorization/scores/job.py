"""The job that scores ways to color, on the same images: `pretint score`."""

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pretext.data import LabeledSource, Source, open_labeled, open_source
from pretext.data.labels import single
from pretext.engine.device import pick_device, versions
from pretext.engine.memory import explain_memory_shortage
from pretext.errors import UserError
from pretext.files import held_folder, write_atomically
from pretext.gamut import TEMPERATURE, Gamut
from pretext.prior import load_prior, rebalancing_weights
from pretint.colorization.networks import LARGEST, ColorRange
from pretint.colorization.scores.evaluators import Panel, open_panel
from pretint.colorization.scores.images import Circle, is_state
from pretint.colorization.scores.ledger import Ledger, slug
from pretint.colorization.scores.methods import BASELINES, COLDEST, Method, open_method
from pretint.colorization.scores.record import is_score, record_features, record_scores
from pretint.colorization.scores.table import (
    INTERVAL,
    METRICS,
    Known,
    Line,
    Metric,
    Real,
    Scores,
    Shown,
    Summary,
    known,
    pooled,
    titles,
)

FOLDER = "scores"
"""The folder of a run that holds its scores."""

_LEAST = 16
_RECORDS = 2  # raised when a record means something else


@dataclass
class ScoreSettings:
    """How methods are scored.

    Args:
        images: where from: a folder, tar shards, "bundled:test", ..., see docs/data.md; with labels for a classifier.
        out: folder for the scores; by default the folder scores in the first run that is named.
        size: images are cut to their middle square and brought to this side, in pixels; all methods see them so.
        most: so many images, drawn by the seed; 0 takes all.
        gray_threshold: an image in which no |a| or |b| exceeds it, in Lab units, is left out.
        temperature: of the annealed mean of the networks; 0.01 or more.
        prior: a .npy file, such as the published prior_probs.npy, whose inverse weighs the pixels of the balanced
            AuC; by default the frequencies of the bins in the scored images.
        lpips: torchvision's weights of AlexNet or VGG-16, a file; "hub" fetches AlexNet's. Without, no LPIPS.
        inception: weights of Inception v3, a file: pytorch-fid's, or torchvision's; "hub" fetches the first. Without,
            no FID.
        disjoint: real images that are not among those scored, for the FID to disjoint images; by default a method's
            images of one half are compared with the truth of the other half.
        classifier: a timm model that names what it sees, MODEL:FILE; MODEL fetches its weights. Without, no top-1.
        against: the method that the others are compared with; by default the first that is named.
        format: terminal; csv; markdown; latex (booktabs).
        seed: of the order of images, the random colors and the hints.
        batch: images at once.
        device: auto (the GPU if there is one), cpu, cuda, ...
    """

    images: str = ""
    out: str = ""
    size: int = 256
    most: int = 0
    gray_threshold: float = 5.0
    temperature: float = TEMPERATURE
    prior: str = ""
    lpips: str = ""
    inception: str = ""
    disjoint: str = ""
    classifier: str = ""
    against: str = ""
    format: Shown = "terminal"
    seed: int = 0
    batch: int = 8
    device: str = "auto"

    def __post_init__(self) -> None:
        if not _LEAST <= self.size <= LARGEST:
            raise UserError(f"size is {self.size}: it must lie in [{_LEAST}, {LARGEST:,}]")
        if not COLDEST <= self.temperature < float("inf"):
            raise UserError(f"temperature is {self.temperature}: it must be {COLDEST} or more, and finite")
        if not 0 <= self.gray_threshold < float("inf"):
            raise UserError(f"gray_threshold is {self.gray_threshold}: it must be 0 or more, and finite")
        if self.most < 0 or self.batch < 1 or not 0 <= self.seed < 2**63:
            raise UserError("most must be 0 or more, batch 1 or more, and seed lie in [0, 2^63)")
        if self.disjoint and not self.inception:
            raise UserError("disjoint is for FID, which needs weights of Inception; name them with --inception")
        if self.disjoint and self.disjoint == self.images:
            raise UserError(f"disjoint is {self.disjoint}, the images that are scored; name others, or none")


def require_images(settings: ScoreSettings) -> None:
    """Refuse to score on images that nobody named.

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

    What is known of each image is kept at once, so that a call that was stopped goes on, and a later one with
    another network takes the others' scores as they are. The table is also written as a JSON file.

    Args:
        models: see ``open_method``. The baselines are in every table, and may be named too.
        settings: on which images, and how.
        seeds: by label, those of the models that are seeds of one network: they stand in one line, as their mean, and
            ``settings.against`` may be a label.

    Raises:
        UserError: a method, the images or weights cannot be had; there is nothing to score.
        SystemExit, KeyboardInterrupt: it was asked to stop.
    """
    require_images(settings)
    device = pick_device(settings.device)
    words = list(dict.fromkeys([*map(str, models), *BASELINES]))
    source = open_labeled(settings.images) if settings.classifier else open_source(settings.images)
    weights = _bin_weights(settings.prior)
    panel = _panel(settings, source, device)
    opened = _each_once([open_method(word, device, settings.temperature, settings.seed) for word in words], words)
    methods = _named_apart(opened)
    named = dict(zip(opened, (method.name for method in methods), strict=True))
    joined = {label: [named[word] for word in group if word in named] for label, group in (seeds or {}).items()}
    against = settings.against if joined.get(settings.against) else _against(settings.against, opened, methods)
    out = _out(settings.out, methods)
    identity = _identity(settings, settings.images, source)
    homes = [method.home / FOLDER if method.home else out for method in methods]
    with ExitStack() as held:
        held.enter_context(warnings.catch_warnings())  # here, as filters are those of all threads
        warnings.filterwarnings("ignore", module="PIL")  # of odd metadata: what cannot be read is listed
        # In one order whoever asks, so that no two wait for each other.
        for folder in sorted({folder.resolve() for folder in (out, *homes)}):
            held.enter_context(held_folder(folder, "scoring there", waited=True))
        shared = identity | {"judges": [judge.digest for judge in panel.present]}
        whole = partial(is_score, pixels=settings.size**2, n_bins=len(Gamut(neighbors=1)), judged=panel.fields)
        ledgers = [
            Ledger(home, method.name, shared | {"scored": method.identity}, whole, panel.width)
            for home, method in zip(homes, opened.values(), strict=True)
        ]
        circle = _circle(settings, source, Ledger(out, "images", identity, is_state))
        record_scores(circle, methods, ledgers, panel, settings.batch, device)
        _require_two(settings.images, circle)
        disjoint = _disjoint(settings, out, panel, circle, device)
        lines = _lines(methods, ledgers, circle, panel, weights, disjoint, against, joined)
        notes = (*panel.missing, *_warnings(methods, ledgers, circle.kept))
        scores = _scores(settings, circle, lines, panel, disjoint, against, identity, out, notes)
        write_atomically(scores.file, scores.json())
    return scores


class _Disjoint(NamedTuple):
    """Features of other real images."""

    rows: NDArray[np.float32] | None
    about: str


def _bin_weights(prior: str) -> NDArray[np.float64] | None:
    if not prior:
        return None
    weights: NDArray[np.float64] = rebalancing_weights(load_prior(Path(prior), Gamut()), uniform=0).numpy()
    return weights


def _panel(settings: ScoreSettings, source: Source, device: torch.device) -> Panel:
    labels, classes = None, []
    if settings.classifier:
        assert isinstance(source, LabeledSource)
        labels = single(source.labels, f"{settings.images}: several classes an image; top-1 needs one of each")
        classes = source.classes
    return open_panel(settings.lpips, settings.inception, settings.classifier, labels, classes, device)


def _each_once(methods: Sequence[Method], words: Sequence[str]) -> dict[str, Method]:
    """By the word that named it; a run and its newest checkpoint, say, are one."""
    found: dict[tuple[str, Path | None], tuple[str, Method]] = {}
    for word, method in zip(words, methods, strict=True):
        home = method.home.resolve() if method.home else None
        found.setdefault((json.dumps(method.identity, sort_keys=True), home), (word, method))
    return dict(found.values())


def _named_apart(methods: Mapping[str, Method]) -> list[Method]:
    """Where two would be shown by one name, both are shown as they were named."""
    names = [method.name for method in methods.values()]
    return [method if names.count(method.name) == 1 else method._replace(name=word) for word, method in methods.items()]


def _against(asked: str, opened: Iterable[str], methods: Sequence[Method]) -> str:
    for word, method in zip(opened, methods, strict=True):
        if asked in ("", word, method.name):
            return method.name
    raise UserError(f"against is {asked}, which is not scored; take {', '.join(opened)}")


def _out(folder: str, methods: Sequence[Method]) -> Path:
    homes = [method.home / FOLDER for method in methods if method.home]
    if not folder and not homes:
        raise UserError("no run is named that could keep the scores; name a folder for them with --out")
    return Path(folder) if folder else homes[0]


def _identity(settings: ScoreSettings, name: str, source: Source) -> dict[str, Any]:
    """What an image's record depends on besides the method and the judges."""
    return {
        "records": _RECORDS,
        "images": name,
        "digest": source.digest(),
        **{key: getattr(settings, key) for key in ("size", "most", "gray_threshold", "seed")},
    }


def _circle(settings: ScoreSettings, source: Source, seen: Ledger) -> Circle:
    return Circle(source, settings.size, settings.gray_threshold, settings.seed, settings.most, seen)


def _require_two(name: str, circle: Circle) -> None:
    if len(circle.kept) >= 2:
        return
    skipped = circle.skipped
    told = f"{circle.gray} of {len(circle)} images are gray, {len(skipped)} cannot be read"
    first = f" (the first: {': '.join(skipped[0])})" if skipped else ""
    raise UserError(f"{name}: {told}{first}; a score needs two or more in color")


def _disjoint(settings: ScoreSettings, out: Path, panel: Panel, scored: Circle, device: torch.device) -> _Disjoint:
    """Features of real images that are not scored; of none where the other half of those that are scored serves."""
    if panel.features is None or not settings.disjoint:
        return _Disjoint(None, "one half of the method's images, to the truth of the other half")
    source = open_source(settings.disjoint)
    identity = _identity(settings, settings.disjoint, source)
    circle = _circle(settings, source, Ledger(out, "disjoint-images", identity, is_state))
    ledger = Ledger(out, "disjoint", identity | {"judges": panel.features.digest}, width=panel.width)
    record_features(circle, ledger, panel.features, settings.batch, device)
    met = {scored.seen[index]["pixels"] for index in scored.kept}
    others = [index for index in circle.kept if circle.seen[index]["pixels"] not in met and index in ledger]
    if len(others) < 2:
        raise UserError(f"{settings.disjoint}: no two images in color that are not among those scored; name others")
    left_out = len(circle.kept) - len(others)
    about = f"to {len(others):,} images of {settings.disjoint}"
    return _Disjoint(ledger.rows(others), about + (f" ({left_out:,} that are scored left out)" if left_out else ""))


def _lines(
    methods: Sequence[Method],
    ledgers: Sequence[Ledger],
    circle: Circle,
    panel: Panel,
    weights: NDArray[np.float64] | None,
    disjoint: _Disjoint,
    against: str,
    joined: Mapping[str, Sequence[str]],
) -> tuple[Line, ...]:
    found: dict[str, Known] = {}
    kept, bins = circle.kept, len(Gamut(neighbors=1))
    pixels: NDArray[np.int64] = np.empty((0, bins), np.int64)
    for method, ledger in zip(methods, ledgers, strict=True):
        rows = ledger.rows(kept) if panel.width else None
        found[method.name], pixels = known([ledger[index] for index in kept], bins, rows)
    truth = found["truth"].features
    means = {label: pooled([found[name] for name in names]) for label, names in joined.items() if names}
    summary = Summary({**found, **means}, pixels, weights, None if truth is None else Real(truth, disjoint.rows))
    apart = {name for names in joined.values() for name in names}
    each = {method.name: method for method in methods}
    lines = [(label, each[names[0]], names) for label, names in joined.items() if names]
    lines += [(method.name, method, [method.name]) for method in methods if method.name not in apart]
    return tuple(
        Line(
            label,
            f"{len(names)} seeds, {method.about}" if len(names) > 1 else method.about,
            method.identity if len(names) == 1 else {"seeds": [each[name].identity for name in names]},
            summary.scores(label),
            {} if label == against else summary.differences(label, against),
            summary.spreads(names),
        )
        for label, method, names in lines
    )


def _scores(
    settings: ScoreSettings,
    circle: Circle,
    lines: tuple[Line, ...],
    panel: Panel,
    disjoint: _Disjoint,
    against: str,
    identity: dict[str, Any],
    out: Path,
    notes: tuple[str, ...],
) -> Scores:
    kept, skipped = circle.kept, circle.skipped
    metrics = _described(settings.prior, panel, disjoint, len(kept))
    shown = [metric for metric in metrics if any(metric.key in line.scores for line in lines)]
    facts = {
        **identity,
        "n": len(kept),
        "n_gray": circle.gray,
        "n_unread": len(skipped),
        "prior": settings.prior,
        "versions": versions(),
    }
    left_out = f"left out: {circle.gray:,} gray (no |a| or |b| above {settings.gray_threshold:g}), "
    footer = [f"{left_out}{len(skipped):,} that cannot be read", INTERVAL, *titles(shown)]
    footer += [f"{line.method}: {line.about}" for line in lines]
    of = [facts, {line.method: line.identity for line in lines}, against, [judge.digest for judge in panel.present]]
    file = out / f"{slug(settings.images)}-{hashlib.sha256(json.dumps(of).encode()).hexdigest()[:12]}.json"
    return Scores(lines, metrics, against, facts, tuple(footer), notes, tuple(skipped), file)


def _warnings(methods: Sequence[Method], ledgers: Sequence[Ledger], kept: Sequence[int]) -> list[str]:
    """Lines on networks whose colors are worth nothing."""
    lines = []
    for method, ledger in zip(methods, ledgers, strict=True):
        if method.identity["method"] != "network":  # gray is uniform by right
            continue
        colors = ColorRange()
        for index in kept:
            colors.add_range(ledger[index].get("ab"))
        lines += [f"{method.name}: {line}" for line in (method.warning, colors.describe_uniform()) if line]
    return lines


def _described(prior: str, panel: Panel, disjoint: _Disjoint, count: int) -> tuple[Metric, ...]:
    about: dict[str, str] = {}
    if prior:
        about["auc_balanced"] = f"the same, each pixel by the inverse of {Path(prior).name} at its true bin, %"
    if panel.lpips is not None:
        about["lpips"] = panel.lpips.about
    if panel.features is not None:
        bias = "biased upwards, the more the fewer images: compare only at the same n"
        about["fid_same"] = f"to the truth of the same {count:,} images; {panel.features.about}; {bias}"
        halves = f" ({(count + 1) // 2:,} and {count // 2:,})" if disjoint.rows is None else ""
        about["fid_disjoint"] = f"{disjoint.about}{halves}; {bias}"
    if panel.classifier is not None:
        about["top1"] = f"of {panel.classifier.about}, %"
    return tuple(metric._replace(about=about.get(metric.key, metric.about)) for metric in METRICS)
