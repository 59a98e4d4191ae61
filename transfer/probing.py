"""Linear probes: what a classifier can read from each stage of a frozen backbone."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pretext.engine.device import pick_place
from pretext.engine.progress import progress
from pretext.engine.run import run_settings
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.pictures import LabelledSource, open_labelled
from pretext.pictures.order import permuted
from pretext.recipe import build_colorizer, load_pretrained
from pretext.versions import versions
from transfer.features import Features, calibrate_batch_norm, pooled_features
from transfer.intervals import ABOUT, accuracy, difference
from transfer.results import Probe, read_probe

NETWORKS = ("random", "pretrained")


@dataclass(frozen=True)
class Protocol:
    """A frozen evaluation recipe; its name is printed with every number."""

    name: str = "pooled-linear-1"
    dims: int = 2048
    """The most dimensions a stage is average-pooled to."""
    penalties: tuple[float, ...] = (0.1, 0.03, 0.01, 0.003, 0.001)
    """L2 penalties on the classifier's weights that are tried, from strong to weak."""
    iterations: int = 60
    """Of L-BFGS, at most, for each penalty; each starts where the stronger one ended."""
    holdout: float = 0.1
    """Share of the training pictures on which the penalty and the best stage are chosen."""

    @property
    def about(self) -> str:
        """What it is, in a sentence."""
        return (
            f"features of the frozen backbone, average-pooled to at most {self.dims} dimensions and standardized; "
            f"multinomial logistic regression; its L2 penalty and the best stage are chosen on {self.holdout:.0%} of "
            "the training pictures, then the classifier is fitted to all of them and the test pictures are read once; "
            "the random network has batch-norm statistics of the training pictures, as the pretrained one has"
        )


@dataclass
class ProbeSettings:
    """What a backbone is judged on.

    Args:
        train: a folder with one sub-folder of pictures per class, or "bundled:train", or another source with
            labels: see docs/data.md.
        test: the same for the test pictures, or "bundled:test". Both must name the same classes.
        size: side, in pixels, at which the networks see a picture; 0 takes the size at which things look
            as large as in training.
        seed: of the held-out part.
        device: auto (the GPU if there is one), cpu, cuda, ...
        workers: processes that decode pictures; -1 takes 1 beside a CPU and up to 12 beside a GPU.
    """

    train: str = "bundled:train"
    test: str = "bundled:test"
    size: int = 0
    seed: int = 0
    device: str = "auto"
    workers: int = -1

    def __post_init__(self) -> None:
        if not 0 <= self.size <= 4096 or not -1 <= self.workers <= 256 or not 0 <= self.seed < 2**63:
            raise UserError("size must lie in [0, 4096], workers in [-1, 256], and seed must lie in [0, 2^63)")


class Classifier(NamedTuple):
    """A linear classifier of standardized features."""

    weight: Tensor
    """(classes, dims): this way round both products of a step read the features row by row."""
    bias: Tensor
    """(classes,)."""

    def correct(self, features: Tensor, labels: Tensor) -> Tensor:
        """Which answers are right: bool (N,)."""
        return F.linear(features, self.weight, self.bias).argmax(1) == labels


class StageResult(NamedTuple):
    """What a stage of a network is worth."""

    holdout_accuracy: float
    penalty: float
    correct: Tensor
    """Which test pictures are classified right: bool (N,)."""


def probe(run: Path, settings: ProbeSettings, protocol: Protocol | None = None) -> Probe:
    """Judge a run's backbone beside the same backbone at its own random initialisation.

    Args:
        run: its directory; the result is also written to its ``probes`` folder.
        settings: on what.
        protocol: how; by default ``Protocol()``.

    Returns:
        What ``read_probe`` reads from the file written.

    Raises:
        UserError: no run there, data that cannot be used.
    """
    protocol = protocol or Protocol()
    run_settings(run)  # a checkpoint file alone would leave no place for the result
    pretrained = load_pretrained(run)
    place = pick_place(settings.device, workers=settings.workers)
    initial = build_colorizer(pretrained.settings, pretrained.prior)
    colorizers = dict(zip(NETWORKS, (initial, pretrained.colorizer), strict=True))
    backbones = {name: colorizer.backbone.eval().to(place.device) for name, colorizer in colorizers.items()}
    sources = _labelled_pair(settings)
    size = pretrained.colorizer.backbone.fit_size(settings.size or pretrained.settings.view_size)
    calibrate_batch_norm(backbones["random"], sources[0], size, place)
    train, test = (
        pooled_features(backbones, source, size, protocol.dims, place, f"features of {part}")
        for source, part in zip(sources, ("train", "test"), strict=True)
    )
    held = _held_out(len(train.labels), protocol.holdout, settings.seed)
    classes = sources[0].classes
    stages = [stage.name for stage in pretrained.colorizer.backbone.stages]
    results: dict[str, dict[str, StageResult]] = {name: {} for name in NETWORKS}
    with progress("linear classifiers", len(stages) * len(NETWORKS), "classifiers") as advance:
        for name in NETWORKS:
            for stage in stages:
                results[name][stage] = _judge(train, test, name, stage, held, len(classes), protocol, place.device)
                advance(1, "")
    outcome = {
        "protocol": protocol.name,
        "about": protocol.about,
        "settings": asdict(protocol),
        "data": {
            "train": settings.train,
            "test": settings.test,
            "classes": classes,
            "n_fit": int((~held).sum()),
            "n_holdout": int(held.sum()),
            "n_train": len(train.labels),
            "n_test": len(test.labels),
        },
        "view_size": size,
        "precision": place.precision,
        "seed": settings.seed,
        "pretraining_seed": pretrained.settings.seed,
        "step": pretrained.step,
        "interval": ABOUT,
        **_table(stages, {stage: train.networks["random"][stage].shape[1] for stage in stages}, results),
        "versions": versions(),
        "skipped": [list(entry) for entry in train.skipped + test.skipped],
    }
    name = re.sub(r"[^\w.-]+", "-", settings.test).strip("-.")[-100:]
    path = run / "probes" / f"{name}.{size}px.seed{settings.seed}.{protocol.name}.json"
    write_atomically(path, json.dumps(outcome, indent=1).encode())
    return read_probe(path)


def fit_linear(
    features: Tensor, labels: Tensor, start: Classifier, penalty: float, iterations: int, tolerance: float = 1e-4
) -> Classifier:
    """Multinomial logistic regression by L-BFGS: mean cross-entropy plus penalty / 2 times the squared weights.

    Args:
        features: (N, dims), standardized.
        labels: (N,), int64.
        start: where to begin.
        penalty: on the weights, not on the bias. scikit-learn's C is 1 / (N * penalty).
        iterations: at most.
        tolerance: it ends where no part of the gradient is greater (scikit-learn's default).
    """
    weight, bias = (part.clone().requires_grad_() for part in start)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, history_size=10, tolerance_grad=tolerance, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), labels) + penalty / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Classifier(weight.detach(), bias.detach())


def _labelled_pair(settings: ProbeSettings) -> tuple[LabelledSource, LabelledSource]:
    train, test = open_labelled(settings.train), open_labelled(settings.test)
    if settings.train == settings.test:
        raise UserError(f"{settings.train}: train and test are the same pictures; a test needs others")
    if train.classes != test.classes:
        different = sorted(set(train.classes) ^ set(test.classes))
        raise UserError(
            f"{settings.train} and {settings.test} hold different classes ({', '.join(different[:5])}); "
            "train and test must have the same"
        )
    if len(train.classes) < 2:
        raise UserError(f"{settings.train}: one class only ({train.classes[0]}); a classifier needs two")
    return train, test


def _held_out(count: int, share: float, seed: int) -> Tensor:
    """Which training pictures choose instead of teach: bool (count,), a keyed permutation's first."""
    held = torch.zeros(count, dtype=torch.bool)
    for rank in range(max(1, round(count * share))):
        held[permuted(rank, count, key=seed)] = True
    return held


def _judge(
    train: Features,
    test: Features,
    network: str,
    stage: str,
    held: Tensor,
    classes: int,
    protocol: Protocol,
    device: torch.device,
) -> StageResult:
    """Fit with every penalty on the rest, choose on the held-out part, fit on all, read the test once."""
    x, y = train.networks[network][stage].to(device), train.labels.to(device)
    mean, scale = x.mean(0), x.std(0, correction=0).clamp_min(1e-6)
    x = (x - mean) / scale
    held = held.to(device)
    classifier = Classifier(torch.zeros(classes, x.shape[1], device=device), torch.zeros(classes, device=device))
    best: tuple[float, float, Classifier] | None = None
    (fit_x, fit_y), (held_x, held_y) = (x[~held], y[~held]), (x[held], y[held])
    for penalty in protocol.penalties:
        classifier = fit_linear(fit_x, fit_y, classifier, penalty, protocol.iterations)
        share = float(classifier.correct(held_x, held_y).float().mean())
        if best is None or share > best[0]:
            best = share, penalty, classifier
    assert best is not None
    share, penalty, classifier = best
    classifier = fit_linear(x, y, classifier, penalty, protocol.iterations)
    test_x = (test.networks[network][stage].to(device) - mean) / scale
    return StageResult(share, penalty, classifier.correct(test_x, test.labels.to(device)).cpu())


def _table(stages: Sequence[str], dims: dict[str, int], results: dict[str, dict[str, StageResult]]) -> dict[str, Any]:
    best = {name: max(stages, key=lambda stage: results[name][stage].holdout_accuracy) for name in NETWORKS}
    rows = []
    for stage in stages:
        row: dict[str, Any] = {"stage": stage, "dims": dims[stage]}
        for name in NETWORKS:
            result = results[name][stage]
            estimate = accuracy(result.correct)
            row[name] = {
                "accuracy": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "holdout_accuracy": result.holdout_accuracy,
                "penalty": result.penalty,
                "correct": base64.b64encode(np.packbits(result.correct.numpy()).tobytes()).decode(),
            }
        row["difference"] = difference(*(results[name][stage].correct for name in reversed(NETWORKS)))._asdict()
        rows.append(row)
    gain = difference(*(results[name][best[name]].correct for name in reversed(NETWORKS)))
    return {"stages": rows, "best": {**best, "difference": gain._asdict()}}
