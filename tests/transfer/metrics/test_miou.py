"""Mean intersection over union against scikit-learn, pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from transfer.metrics import MeanIoU, confusion, segmentation_outcome


def masks(rng: np.random.Generator, count: int, classes: int) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Truth, of a size of its own, some of it not counted, and what was predicted."""
    drawn = []
    for _ in range(count):
        shape = tuple(rng.integers(1, 9, 2))
        truth = rng.integers(0, classes, shape).astype(np.uint8)
        predicted = np.where(rng.random(shape) < 0.5, truth, rng.integers(0, classes, shape))
        drawn.append((np.where(rng.random(shape) < 0.2, 255, truth).astype(np.uint8), predicted))
    return drawn


def outcome_of(drawn: list[tuple[NDArray[np.uint8], NDArray[np.int64]]], classes: int) -> MeanIoU:
    return segmentation_outcome([confusion(truth, predicted, classes) for truth, predicted in drawn])


@given(st.integers(1, 6), st.integers(2, 8), st.integers(0, 10**6))
def test_by_scikit_learn(count: int, classes: int, seed: int) -> None:
    drawn = masks(np.random.default_rng(seed), count, classes)
    truth, predicted = (np.concatenate([one[side].ravel() for one in drawn]) for side in (0, 1))
    truth, predicted = truth[truth != 255], predicted[truth != 255]
    if not len(truth):
        with pytest.raises(AssertionError, match="no pixel"):
            outcome_of(drawn, classes)
        return
    outcome = outcome_of(drawn, classes)
    assert np.array_equal(outcome.confusions.sum(0), confusion_matrix(truth, predicted, labels=range(classes)))
    occur = sorted({*truth.tolist(), *predicted.tolist()})
    each = jaccard_score(truth, predicted, labels=occur, average=None)
    assert outcome.per_class()[occur] == pytest.approx(each, abs=1e-12)
    assert np.isnan(np.delete(outcome.per_class(), occur)).all(), "a class that does not occur has no number"
    assert outcome.value == pytest.approx(jaccard_score(truth, predicted, average="macro"), abs=1e-12)
    assert outcome.pixel_accuracy == pytest.approx(accuracy_score(truth, predicted))
    assert outcome.positives.tolist() == np.bincount(truth, minlength=classes).tolist()


@given(st.integers(0, 10**6))
def test_weights_are_repetitions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = masks(rng, 6, 4)
    weights = rng.integers(0, 4, (6, 3))
    outcome = MeanIoU(np.stack([confusion(*one, 4) for one in drawn]))
    for column, under in zip(weights.T, outcome.under(weights.astype(np.float32)), strict=True):
        again = [drawn[at] for at, times in enumerate(column) for _ in range(times)]
        if any((truth != 255).any() for truth, _ in again):
            assert under == pytest.approx(outcome_of(again, 4).value, abs=1e-12)
        else:
            assert np.isnan(under)


def test_pixel_counts_beyond_single_precision() -> None:
    counts = np.array([[[2**40 + 1, 0], [1, 2**30 + 1]]], dtype=np.int64)
    wanted = ((2**40 + 1) / (2**40 + 2) + (2**30 + 1) / (2**30 + 2)) / 2
    assert MeanIoU(counts).under(np.ones((1, 1), dtype=np.float32))[0] == pytest.approx(wanted, abs=1e-15)


def test_what_cannot_be() -> None:
    mask = np.array([[0, 1], [255, 2]], dtype=np.uint8)
    assert confusion(mask, np.array([[0, 1], [77, 1]]), 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    for truth, predicted in ((mask, mask[:1]), (mask, mask * 0 + 3), (np.full((2, 2), 3, np.uint8), mask * 0)):
        with pytest.raises(AssertionError):
            confusion(truth, predicted, 3)
