"""Average precision against the devkit's rules read literally, pycocotools and scikit-learn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from detections import ImageDetections, Objects, coco_ap, devkit_ap, make_boxes, make_images
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from transfer.metrics import Points, detections_outcome
from transfer.metrics.box_ap import LEVELS, BoxAP, Detections

RULES: tuple[Points, ...] = ("11 points", "all points", "COCO")


def some_to_find(truth: Sequence[Objects]) -> bool:
    return any((~one.difficult).any() for one in truth)


@given(st.integers(1, 12), st.integers(1, 4), st.booleans(), st.integers(0, 10**6))
def test_voc_by_the_rules(count: int, classes: int, ties: bool, seed: int) -> None:
    found, truth = make_images(np.random.default_rng(seed), count, classes, ties)
    if some_to_find(truth):
        for rule in ("11 points", "all points"):
            outcome = detections_outcome(found, truth, rule, classes)  # type: ignore[arg-type]
            wanted = [devkit_ap(found, truth, label, rule == "11 points") for label in range(classes)]
            assert outcome.per_class() == pytest.approx(wanted, abs=1e-9, nan_ok=True)
            assert outcome.value == pytest.approx(np.nanmean(wanted), abs=1e-9)


@given(st.integers(1, 12), st.integers(1, 4), st.booleans(), st.integers(0, 10**6))
def test_coco_by_pycocotools(count: int, classes: int, ties: bool, seed: int) -> None:
    found, truth = make_images(np.random.default_rng(seed), count, classes, ties)
    if some_to_find(truth):
        outcome = detections_outcome(found, truth, "COCO", classes)
        wanted = coco_ap(found, truth, classes)
        assert outcome.per_class() == pytest.approx(wanted, abs=1e-6, nan_ok=True)
        assert outcome.value == pytest.approx(np.nanmean(wanted), abs=1e-6)


def test_many_images() -> None:
    """Recalls of many values, so that every level of recall is met; boxes beyond the hundredth of an image."""
    rng = np.random.default_rng(0)
    found, truth = make_images(rng, 300, 5, ties=False, most=8)
    found[0] = (make_boxes(rng, 400), rng.random(400).astype(np.float32), rng.integers(0, 2, 400))
    assert detections_outcome(found, truth, "COCO", 5).per_class() == pytest.approx(coco_ap(found, truth, 5), abs=1e-6)
    for rule in ("11 points", "all points"):
        wanted = [devkit_ap(found, truth, label, rule == "11 points") for label in range(5)]
        outcome = detections_outcome(found, truth, rule, 5)  # type: ignore[arg-type]
        assert outcome.per_class() == pytest.approx(wanted, abs=1e-9)


def test_recalls_on_a_level() -> None:
    """7 of 100 and 3 of 10 found: whether that reaches a level of recall is a matter of the last bit."""
    for positives in (10, 20, 100, 300):
        for right in range(1, positives + 1, max(1, positives // 25)):
            box = np.array([[0, 0, 4, 4]], dtype=np.float32)
            truth = [Objects(box, np.array([0]), np.array([False]))] * positives
            hit, miss = ((one, np.array([0.5], dtype=np.float32), np.array([0])) for one in (box, box + 50))
            found = [hit] * right + [miss] * (positives - right)
            elevenths = sum(10 * right >= level * positives for level in range(11)) / 11
            assert detections_outcome(found, truth, "11 points", 1).value == pytest.approx(elevenths)
            assert detections_outcome(found, truth, "all points", 1).value == pytest.approx(right / positives)
            reached = np.mean(right / positives >= np.linspace(0, 1, 101))  # as pycocotools compares
            assert detections_outcome(found, truth, "COCO", 1).value == pytest.approx(reached)
    box = np.array([[0, 0, 4, 4]], dtype=np.float32)
    hit, miss = ((one, np.array([0.5], dtype=np.float32), np.array([0])) for one in (box, box + 50))
    truth = [Objects(box, np.array([0]), np.array([False]))] * 100
    assert detections_outcome([hit] * 7 + [miss] * 93, truth, "COCO", 1).value == pytest.approx(
        coco_ap([hit] * 7 + [miss] * 93, truth, 1)[0], abs=1e-6
    )


def test_area_by_scikit_learn() -> None:
    """Without ties and with precision that only falls, both areas are one."""
    rng = np.random.default_rng(1)
    box = np.array([[0, 0, 4, 4]], dtype=np.float32)
    truth = [Objects(box, np.array([0]), np.array([False]))] * 30
    right = np.arange(30) < 20
    scores = np.sort(rng.random(30).astype(np.float32))[::-1]
    found = [(box if hit else box + 50, scores[at : at + 1], np.array([0])) for at, hit in enumerate(right)]
    outcome = detections_outcome(found, truth, "all points", 1)
    assert outcome.value == pytest.approx(average_precision_score(right, scores) * 20 / 30)


@pytest.mark.parametrize("rule", RULES)
def test_cases(rule: Points) -> None:
    box = np.array([[0, 0, 4, 4]], dtype=np.float32)
    nothing = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64)
    easy, hard, empty = (
        Objects(box[:n], np.zeros(n, dtype=np.int64), np.full(n, difficult))
        for n, difficult in ((1, False), (1, True), (0, False))
    )

    def value(found: list[Any], truth: list[Objects]) -> float:
        return detections_outcome(found, truth, rule, 2).value

    def said(*scores: float) -> ImageDetections:
        return (
            np.repeat(box, len(scores), 0),
            np.array(scores, dtype=np.float32),
            np.zeros(len(scores), dtype=np.int64),
        )

    assert value([nothing], [easy]) == 0
    assert value([said(0.5)], [easy]) == 1, "the class without objects is left out"
    assert value([said(0.5), nothing], [easy, empty]) == 1
    assert value([said(0.5), said(0.9)], [easy, hard]) == 1, "a difficult one is not wrong"
    assert value([said(0.5), said(0.9)], [easy, empty]) == pytest.approx(0.5)
    assert value([said(0.9, 0.8)], [easy]) == 1, "what comes after all are found costs nothing"
    assert value([said(0.9, 0.8), said(0.1)], [easy, easy]) < 1, "a box that is found twice is wrong once"
    other = (box, np.array([0.9], dtype=np.float32), np.array([1]))
    assert value([other], [easy]) == 0, "the label counts"


def test_half_an_overlap_is_enough() -> None:
    """The devkit asks for at least one half; 1-based xmin 1, xmax 4 is 4 pixels wide."""
    truth = [Objects(np.array([[0, 0, 4, 4]], np.float32), np.array([0]), np.array([False]))]
    for width, wanted in ((2.0, 1.0), (1.99, 0.0)):
        found = [(np.array([[0, 0, width, 4]], np.float32), np.array([0.5], np.float32), np.array([0]))]
        assert detections_outcome(found, truth, "11 points", 1).value == wanted


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from(RULES))
def test_weights_are_repetitions(seed: int, ties: bool, rule: Points) -> None:
    rng = np.random.default_rng(seed)
    found, truth = make_images(rng, 8, 2, ties)
    weights = rng.integers(0, 4, (8, 3))
    if not some_to_find(truth):
        return
    outcome = detections_outcome(found, truth, rule, 2)
    found = in_order(found)
    assert detections_outcome(found, truth, rule, 2).value == outcome.value
    for column in weights.T:
        again = [at for at, times in enumerate(column) for _ in range(times)]
        if some_to_find([truth[at] for at in again]):
            repeated = detections_outcome([found[at] for at in again], [truth[at] for at in again], rule, 2)
            under = outcome.under(column[:, None].astype(np.float32))[0]
            assert under == pytest.approx(repeated.value)
        else:
            assert np.isnan(outcome.under(column[:, None].astype(np.float32))[0])


def in_order(found: Sequence[ImageDetections]) -> list[ImageDetections]:
    """The same order without ties."""
    scores = np.concatenate([scores for _, scores, _ in found])
    places = np.empty(len(scores), dtype=np.float32)
    places[np.argsort(-scores, kind="stable")] = -np.arange(len(scores))
    parts = np.split(places, np.cumsum([len(scores) for _, scores, _ in found])[:-1])
    return [(one[0], part, one[2]) for one, part in zip(found, parts, strict=True)]


def test_the_same_boxes_serve_all_rules() -> None:
    found, truth = make_images(np.random.default_rng(2), 40)
    shared = Detections.of(found, truth, 3)
    for rule in RULES:
        assert BoxAP(shared, rule).value == detections_outcome(found, truth, rule, 3).value
    assert BoxAP(shared, "COCO").count == 40 and len(LEVELS["COCO"]) == 101  # type: ignore[arg-type]
    assert BoxAP(shared, "COCO").positives.tolist() == [
        sum(int(((one.labels == label) & ~one.difficult).sum()) for one in truth) for label in range(3)
    ]


@pytest.mark.parametrize(
    ("box", "score", "label"),
    [([0, 0, np.nan, 1], 0.5, 0), ([0, 0, 1, 1], np.inf, 0), ([2, 0, 1, 1], 0.5, 0), ([0, 0, 1, 1], 0.5, 1)],
)
def test_what_cannot_be(box: list[float], score: float, label: int) -> None:
    known = Objects(np.array([[0, 0, 4, 4]], np.float32), np.array([0]), np.array([False]))
    with pytest.raises(AssertionError):
        detections_outcome([([box], [score], [label])], [known], "COCO", 1)
    with pytest.raises(AssertionError, match="nothing is to be found"):
        detections_outcome([([], [], [])], [known._replace(difficult=np.array([True]))], "COCO", 1)
