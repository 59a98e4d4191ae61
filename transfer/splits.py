"""Splits of the training images into images to fit to and held-out images, and samples of few labels.

All are drawn by keyed permutations of the images' indices, so they depend only on the labels and the seed. Each has a
name and a hash.
"""

import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pretext.data.order import mix, permutation
from pretext.data.source import Labels
from pretext.errors import UserError

Indices = NDArray[np.int64]

_FEW, _HELD, _SHOTS = 0xFE3, 0x4E1D, 0x5407


class Split(NamedTuple):
    """Two disjoint parts of the training images."""

    name: str
    """Such as "1% of labels, holdout 10%, seed 0"."""
    sha256: str
    """SHA-256 over both lists, hex."""
    fit: Indices
    """The images to fit to: ascending indices."""
    held: Indices
    """The held-out images, which choose settings: ascending indices; none with a share of 0."""


class Shots(NamedTuple):
    """The images from which a classifier of one class learns."""

    positives: Indices
    """k images of the class: ascending indices."""
    negatives: Indices
    """(C - 1) k images without it: ascending indices; all of them if there are fewer."""


def split(
    labels: Labels,
    share: float,
    seed: int,
    fraction: float = 1.0,
    good: NDArray[np.bool_] | None = None,
    most: int = 10_000,
) -> Split:
    """Divide the training images of a frozen evaluation, see also ``transfer.tasks.task.split_holdout``.

    If images have one class each, each class gives its share to both parts: at least one image to a fraction of the
    labels; and to the held-out part as near to its share as whole images allow, but never its last image. If images
    have several classes, images are drawn independently of their classes, and then more, until every class has an image
    to fit to. The images of a smaller fraction are among those of a larger fraction of the same seed.

    Args:
        labels: of all training images.
        share: of the images to be held out, in [0, 1).
        seed: of the permutations.
        fraction: of all images that may be used at all, in (0, 1].
        good: bool (N,): which images can be read; the others are in neither part.
        most: the largest number of held-out images.

    Raises:
        UserError: a share or fraction is out of range, no image can be read, or none can be held out.
    """
    if not 0 <= share < 1 or not 0 < fraction <= 1:
        raise UserError(
            f"held-out share {share:g}, fraction of labels {fraction:g}: give 0 <= share < 1 and 0 < fraction <= 1"
        )
    assert good is None or good.shape == labels.shape[:1]
    usable = np.arange(len(labels)) if good is None else np.flatnonzero(good)
    if not len(usable):
        raise UserError(f"none of {len(labels)} training images can be read; there is nothing to learn from")
    chosen = usable
    if fraction < 1:
        ranks = permutation(len(labels), mix(seed, _FEW))
        if labels.ndim == 1:
            by_class = _group_by_class(labels, usable)
            drawn = [_first(indices, ranks, max(1, round(fraction * len(indices)))) for indices in by_class]
        else:
            drawn = [_first(usable, ranks, max(1, round(fraction * len(usable))))]
            for column in labels.T:
                if not (column[drawn[0]] == 1).any():
                    drawn.append(_first(usable[column[usable] == 1], ranks, 1))
        chosen = np.unique(np.concatenate(drawn))
    count = min(max(1, round(share * len(chosen))), most) if share else 0
    held = _draw_held(labels, chosen, count, permutation(len(labels), mix(seed, _HELD)), seed)
    if count and not len(held):
        raise UserError(
            f"there is one image of every class among the {len(chosen)} training images with labels, so none can be "
            "held out to choose settings; use a larger fraction of the labels"
        )
    capped = share > 0 and round(share * len(chosen)) > most
    parts = [f"{100 * fraction:g}% of labels"] * (fraction < 1)
    parts += [f"holdout {f'{most:,} images' if capped else f'{100 * share:g}%'}"] * (share > 0)
    fit = np.setdiff1d(chosen, held)
    return Split(", ".join([*parts, f"seed {seed}"]), digest_of_indices(fit, held), fit, held)


def shots(
    labels: Labels, wanted: int, classes: int, k: int, sample: int, seed: int, good: NDArray[np.bool_] | None = None
) -> Shots:
    """Draw k images of one class, and (C - 1) k without it, as Goyal et al. (ICCV 2019) do.

    With one class an image, the negatives are k of each other class. The shots of a smaller k are among those of a
    larger one of the same sample; those of two samples are drawn independently.

    Args:
        labels: of all training images; those that are not counted for the class are not drawn.
        wanted: the class.
        classes: the number of classes, C.
        k: the number of positives, at least one.
        sample: the number of the sample.
        seed: of all samples.
        good: bool (N,): which images can be read; the others are not drawn.

    Returns:
        Fewer positives than k where there are fewer: the caller decides whether that is an error.
    """
    ranks = permutation(len(labels), mix(mix(seed, _SHOTS), sample))
    usable = np.ones(len(labels), bool) if good is None else good
    if labels.ndim == 2:
        column = labels[:, wanted]
        positives, negatives = ((np.flatnonzero(usable & (column == sign))) for sign in (1, 0))
        return Shots(_first(positives, ranks, k), _first(negatives, ranks, (classes - 1) * k))
    # The first k of every class: images by class and rank, without those whose k-th predecessor is of the same class.
    order = np.flatnonzero(usable)
    order = order[np.lexsort((ranks[order], labels[order]))]
    classes_in_order = labels[order]
    drawn = np.ones(len(order), bool)
    drawn[k:] = classes_in_order[k:] != classes_in_order[:-k]
    is_wanted = classes_in_order == wanted
    return Shots(np.sort(order[drawn & is_wanted]), np.sort(order[drawn & ~is_wanted]))


def digest_of_indices(*lists: Indices) -> str:
    """Return SHA-256, hex, over the length of every list and its indices, as little-endian 64-bit integers."""
    digest = hashlib.sha256()
    for indices in lists:
        digest.update(len(indices).to_bytes(8, "little") + indices.astype("<i8").tobytes())
    return digest.hexdigest()


def _first(indices: Indices, ranks: Indices, count: int) -> Indices:
    """Return those ``count`` of some images that have the lowest ranks, ascending."""
    return np.sort(indices[np.argsort(ranks[indices])[:count]])


def _group_by_class(labels: NDArray[np.integer], indices: Indices) -> list[Indices]:
    """Return the indices of each class that has some, in their order."""
    order = np.argsort(labels[indices], kind="stable")
    _, starts = np.unique(labels[indices][order], return_index=True)
    return np.split(indices[order], starts[1:])


def _draw_held(labels: Labels, chosen: Indices, count: int, ranks: Indices, seed: int) -> Indices:
    """Return the held-out images; see ``split``.

    With one class an image, classes share ``count`` in proportion, by largest remainder, and each keeps one image.
    The seed orders equal remainders; otherwise the first classes would always get more.
    """
    if not count:
        return np.zeros(0, np.int64)
    if labels.ndim == 1:
        by_class = _group_by_class(labels, chosen)
        sizes = np.array([len(indices) for indices in by_class])
        exact = sizes.astype(np.float64) * (count / int(sizes.sum()))
        quotas: Indices = np.minimum(exact.astype(np.int64), sizes - 1)
        order = permutation(len(by_class), mix(seed, _HELD))
        for label in np.lexsort((order, quotas - exact)).tolist():
            if quotas.sum() < count and quotas[label] < sizes[label] - 1:
                quotas[label] += 1
        parts = [_first(indices, ranks, quota) for indices, quota in zip(by_class, quotas.tolist(), strict=True)]
        return np.sort(np.concatenate(parts))
    held: list[int] = []
    left = (labels[chosen] == 1).sum(0)
    for index in chosen[np.argsort(ranks[chosen])].tolist():
        shown = labels[index] == 1
        if len(held) == count:
            break
        if (left[shown] > 1).all():
            held.append(index)
            left -= shown
    return np.array(sorted(held), np.int64)
