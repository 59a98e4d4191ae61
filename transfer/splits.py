"""Which training images teach, which choose settings, and which few stand for few labels: named and hashed.

All are drawn by keyed permutations of the images' indices, so they depend on the labels and the seed alone.
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
    """Over both lists, hex."""
    fit: Indices
    """The images that teach: ascending indices."""
    held: Indices
    """The images that choose settings, likewise; none with a share of 0."""


class Shots(NamedTuple):
    """The images from which a classifier of one class learns."""

    positives: Indices
    """k images of the class: ascending indices."""
    negatives: Indices
    """(C - 1) k images without it, likewise; what there is, where there are fewer."""


def split(
    labels: Labels,
    share: float,
    seed: int,
    fraction: float = 1.0,
    good: NDArray[np.bool_] | None = None,
    most: int = 10_000,
) -> Split:
    """Divide the training images.

    With one class an image, each class gives its share to both parts: of a fraction of labels at least one
    image, and to the held-out part as near to its share as whole images allow, never its last. With several,
    images are drawn whatever they show, and then as many more as it takes that no class that there is lacks a
    image that teaches. The images of a smaller fraction are among those of a larger one of the same seed.

    Args:
        labels: of all training images.
        share: of the images to be held out, in [0, 1).
        seed: of the permutations.
        fraction: of all images that may be used at all, in (0, 1].
        good: bool (N,): which can be read; the others are in neither part.
        most: how many are held out at most.

    Raises:
        UserError: a share or fraction out of range, no image can be read, or none can be held out.
    """
    if not 0 <= share < 1 or not 0 < fraction <= 1:
        raise UserError(
            f"a share of {share:g} held out, of {fraction:g} of labels: give 0 <= share < 1, 0 < labels <= 1"
        )
    assert good is None or good.shape == labels.shape[:1]
    usable = np.arange(len(labels)) if good is None else np.flatnonzero(good)
    if not len(usable):
        raise UserError(f"none of {len(labels)} training images can be read; there is nothing to learn from")
    chosen = usable if fraction == 1 else _few(labels, usable, fraction, permutation(len(labels), mix(seed, _FEW)))
    count = min(max(1, round(share * len(chosen))), most) if share else 0
    held = _held(labels, chosen, count, permutation(len(labels), mix(seed, _HELD)), seed)
    if count and not len(held):
        raise UserError(
            f"{len(chosen)} training images with labels are one of every class: none can be held out to choose "
            "settings on; take a larger fraction of labels"
        )
    capped = share > 0 and round(share * len(chosen)) > most
    parts = [f"{100 * fraction:g}% of labels"] * (fraction < 1)
    parts += [f"holdout {f'{most:,} images' if capped else f'{100 * share:g}%'}"] * (share > 0)
    fit = np.setdiff1d(chosen, held)
    return Split(", ".join([*parts, f"seed {seed}"]), digest_of_indices(fit, held), fit, held)


def shots(
    labels: Labels,
    wanted: int,
    classes: int,
    k: int,
    sample: int,
    seed: int,
    good: NDArray[np.bool_] | None = None,
) -> Shots:
    """k images of one class, and (C - 1) k without it, as Goyal et al. (ICCV 2019) draw them.

    With one class an image, the negatives are k of each other class. The shots of a smaller k are
    among those of a larger one of the same sample; those of two samples are drawn independently.

    Args:
        labels: of all training images; those that are not counted for the class are not drawn.
        wanted: the class.
        classes: how many there are, C.
        k: how many positives.
        sample: which of several samples.
        seed: of all of them.
        good: bool (N,): which can be read; the others are not drawn.

    Returns:
        Fewer positives than k where there are fewer: the caller knows whether that will do.
    """
    ranks = permutation(len(labels), mix(mix(seed, _SHOTS), sample))
    usable = np.ones(len(labels), bool) if good is None else good
    if labels.ndim == 2:
        column = labels[:, wanted]
        positives, negatives = ((np.flatnonzero(usable & (column == sign))) for sign in (1, 0))
        return Shots(_first(positives, ranks, k), _first(negatives, ranks, (classes - 1) * k))
    each = [_first(np.flatnonzero(usable & (labels == one)), ranks, k) for one in range(classes)]
    others = [own for one, own in enumerate(each) if one != wanted]
    return Shots(each[wanted], np.sort(np.concatenate([*others, np.zeros(0, np.int64)])))


def digest_of_indices(*lists: Indices) -> str:
    """SHA-256, hex, over the length of every list and its indices, as little-endian 64-bit integers."""
    digest = hashlib.sha256()
    for indices in lists:
        digest.update(len(indices).to_bytes(8, "little") + indices.astype("<i8").tobytes())
    return digest.hexdigest()


def _first(indices: Indices, ranks: Indices, count: int) -> Indices:
    """Those ``count`` of some images that have the lowest ranks, ascending."""
    return np.sort(indices[np.argsort(ranks[indices])[:count]])


def _few(labels: Labels, usable: Indices, fraction: float, ranks: Indices) -> Indices:
    if labels.ndim == 1:
        own = [usable[labels[usable] == one] for one in np.unique(labels[usable])]
        return np.sort(np.concatenate([_first(one, ranks, max(1, round(fraction * len(one)))) for one in own]))
    chosen = [_first(usable, ranks, max(1, round(fraction * len(usable))))]
    for column in labels.T:
        if not (column[chosen[0]] == 1).any():
            chosen.append(_first(usable[column[usable] == 1], ranks, 1))
    return np.unique(np.concatenate(chosen))


def _held(labels: Labels, chosen: Indices, count: int, ranks: Indices, seed: int) -> Indices:
    if not count:
        return np.zeros(0, np.int64)
    if labels.ndim == 1:
        own = [chosen[labels[chosen] == one] for one in np.unique(labels[chosen])]
        taken = _quotas(np.array([len(one) for one in own]), count, permutation(len(own), mix(seed, _HELD)))
        return np.sort(np.concatenate([_first(one, ranks, k) for one, k in zip(own, taken.tolist(), strict=True)]))
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


def _quotas(sizes: Indices, count: int, order: Indices) -> Indices:
    """How many of each class make up ``count``: in proportion, by largest remainder, one of each stays.

    Equal remainders go by ``order``, or the first classes would always be favored.
    """
    exact = sizes.astype(np.float64) * (count / int(sizes.sum()))
    taken: Indices = np.minimum(exact.astype(np.int64), sizes - 1)
    for one in np.lexsort((order, taken - exact)).tolist():
        if taken.sum() < count and taken[one] < sizes[one] - 1:
            taken[one] += 1
    return taken
