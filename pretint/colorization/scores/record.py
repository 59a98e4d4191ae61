"""Records of each image and method: computed in batches, and saved at once."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from pretext.color import rgb_to_ab, rgb_to_lab
from pretext.engine.progress import progress
from pretext.engine.signals import catch_signals, exit_with
from pretext.errors import UserError
from pretext.gamut import Gamut
from pretext.methods.colorization import join
from pretint.colorization.merge import Float32Array
from pretint.colorization.networks import ColorRange
from pretint.colorization.scores.evaluators import Evaluators, FeatureExtractor
from pretint.colorization.scores.images import ScoredImage, ScoredImages, planes
from pretint.colorization.scores.ledger import Ledger, ScoreRecord
from pretint.colorization.scores.methods import ScoreBatch, ScoredMethod
from pretint.colorization.scores.metrics import areas_by_bin, colorfulness, squared_error, ssim, sums_by_bin


def record_scores(
    circle: ScoredImages,
    methods: Sequence[ScoredMethod],
    ledgers: Sequence[Ledger],
    panel: Evaluators,
    batch_size: int,
    device: torch.device,
) -> None:
    """Score the images that are not in the ledgers yet.

    Args:
        circle: the images.
        methods: the methods that color them.
        ledgers: the ledger of each method; records are added.
        panel: the networks that evaluate the results.
        batch_size: the number of images at once.
        device: where they are computed.

    Raises:
        UserError: a method gives colors of a wrong size, or that are not finite.
        SystemExit, KeyboardInterrupt: a signal requested a stop.
    """
    done = {index for index in circle.order if all(index in ledger for ledger in ledgers)}
    settled = len(done) + circle.gray + len(circle.skipped)
    gamut = Gamut(neighbors=1).to(device)
    with progress("score", len(circle), "images", settled) as advance, catch_signals() as stop_signal:
        for group in _group(circle.pairs(done), batch_size):
            rgb = _planes(group).to(device)
            donors = planes([pair.donor for pair in group]).to(device)
            lab = rgb_to_lab(rgb)
            bins = gamut.encode(lab[:, 1:]).nearest
            batch = ScoreBatch([pair.index for pair in group], rgb, lab, bins, rgb_to_ab(donors))
            for method, ledger in zip(methods, ledgers, strict=True):
                rows = [row for row, index in enumerate(batch.indices) if index not in ledger]
                if not rows:
                    continue
                part = batch
                if len(rows) < len(batch.indices):
                    indices = [batch.indices[row] for row in rows]
                    part = ScoreBatch(indices, batch.rgb[rows], batch.lab[rows], batch.bins[rows], batch.donor_ab[rows])
                ledger.add(*score_batch(part, method, panel, len(gamut)))
            settled += len(group)
            advance(len(group), "")
            if ending := stop_signal():
                exit_with(ending, f"the scores of {settled:,} images are kept")
        if len(circle) > settled:
            advance(len(circle) - settled, "")  # images that are gray or unreadable


def record_features(
    circle: ScoredImages, ledger: Ledger, network: FeatureExtractor, batch_size: int, device: torch.device
) -> None:
    """Add the features of real images that are not in the ledger yet. Stops as ``record_scores`` does."""
    done = {index for index in circle.order if index in ledger}
    settled = len(done) + circle.gray + len(circle.skipped)
    with progress("disjoint", len(circle), "images", settled) as advance, catch_signals() as stop_signal:
        for group in _group(circle.pairs(done), batch_size):
            ledger.add([{"index": pair.index} for pair in group], _rows(network, _planes(group).to(device)))
            advance(len(group), "")
            if ending := stop_signal():
                exit_with(ending, f"the features of {len(ledger):,} images are kept")


def score_batch(
    batch: ScoreBatch, method: ScoredMethod, panel: Evaluators, n_bins: int
) -> tuple[list[ScoreRecord], Float32Array | None]:
    """Return records of a method on images, and rows of features, (B, D), if there is a network for them.

    Args:
        batch: the images.
        method: the method that colors them.
        panel: the networks that evaluate the results.
        n_bins: Q.

    Raises:
        UserError: the method gives colors of another size, or that are not finite.
    """
    truth = batch.lab[:, 1:]
    with torch.inference_mode():
        ab = method.color(batch)
        if ab.shape != truth.shape:
            sizes = [tuple(maps.shape[-2:]) for maps in (ab, truth)]
            raise UserError(f"{method.name}: gave colors of {sizes[0]} pixels for images of {sizes[1]}")
        if not bool(ab.isfinite().all()):
            raise UserError(f"{method.name}: predicted colors that are NaN or infinite; are its weights damaged?")
        rgb = batch.rgb if method.name == "truth" else to_rgb(batch.lab[:, :1], ab)
        areas = areas_by_bin(ab, truth, batch.bins, n_bins).cpu()
        pixels = sums_by_bin(torch.ones_like(batch.bins), batch.bins, n_bins).cpu()
        # Apple's GPUs have no double precision.
        colored, real = (images.cpu() if images.device.type == "mps" else images for images in (rgb, batch.rgb))
        columns: dict[str, list[Any]] = {
            "error": squared_error(colored, real).tolist(),
            "ssim": ssim(colored, real).tolist(),
            "cf": colorfulness(colored).tolist(),
            "cf_abs": colorfulness(colored, absolute=True).tolist(),
            "ab": [ColorRange().add(image_ab) for image_ab in ab.split(1)],
        }
        if panel.lpips is not None:
            columns["lpips"] = panel.lpips(rgb, batch.rgb).tolist()
        if panel.classifier is not None and panel.labels is not None:
            labels = torch.from_numpy(panel.labels[batch.indices]).to(rgb.device)
            columns["right"] = panel.classifier(rgb, labels).tolist()
        rows = None if panel.features is None else _rows(panel.features, rgb)
    records = []
    for row, index in enumerate(batch.indices):
        bins = pixels[row].nonzero()[:, 0]
        sparse = {"bins": bins, "pixels": pixels[row, bins], "areas": areas[row, bins]}
        lists = {name: values.tolist() for name, values in sparse.items()}
        records.append({"index": index, **lists, **{name: column[row] for name, column in columns.items()}})
    return records, rows


def to_rgb(lightness: Tensor, ab: Tensor) -> Tensor:
    """Return the 8-bit RGB image of L and ab, (B, 3, H, W), from which a method is evaluated; see ``join``."""
    return (join(lightness, ab) * 255).round().byte()


def _rows(network: FeatureExtractor, rgb: Tensor) -> Float32Array:
    rows: Float32Array = network(rgb).float().cpu().numpy()
    return rows


def _planes(group: Sequence[ScoredImage]) -> Tensor:
    return planes([pair.pixels for pair in group])


def _group(pairs: Iterable[ScoredImage], size: int) -> Iterator[list[ScoredImage]]:
    group: list[ScoredImage] = []
    for pair in pairs:
        group.append(pair)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
