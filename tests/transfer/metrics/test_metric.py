"""Intervals and tests of boxes, masks and ranks against images that are really drawn again, or swapped."""

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from detections import ImageDetections, Objects, make_boxes, make_images
from fake_results import ranking, truth
from numpy.typing import NDArray

from transfer import bootstrap
from transfer.bootstrap import centered
from transfer.metrics import (
    BoxAP,
    Detections,
    MeanIoU,
    Points,
    Weighted,
    detections_outcome,
    joint_score,
    make_row,
)
from transfer.metrics.classification import average_precision, resampled_map

RULES: tuple[Points, ...] = ("11 points", "all points", "COCO")


def masked(rng: np.random.Generator, count: int = 60, classes: int = 4, skill: float = 0.5) -> MeanIoU:
    """Images of some difficulty each."""
    counts = rng.integers(0, 30, (count, classes, classes))
    right = (skill * rng.random((count, 1)) * 200).astype(np.int64)
    counts[:, range(classes), range(classes)] += right * (rng.random((count, classes)) < 0.6)
    return MeanIoU(counts)


@pytest.mark.parametrize("rule", RULES)
def test_resamples_are_images_drawn_again(rule: Points) -> None:
    found, known = make_images(np.random.default_rng(0), 40, ties=False)
    draws = detections_outcome(found, known, rule, 3).resampled
    rng = np.random.default_rng(0)
    for draw in draws[:20]:
        drawn = np.sort(rng.integers(0, 40, 40))
        again = detections_outcome([found[at] for at in drawn], [known[at] for at in drawn], rule, 3)
        assert draw == pytest.approx(again.value, abs=1e-6)


def test_resampled_masks() -> None:
    outcome = masked(np.random.default_rng(1))
    rng = np.random.default_rng(0)
    for draw in outcome.resampled[:20]:
        assert draw == pytest.approx(MeanIoU(outcome.confusions[rng.integers(0, 60, 60)]).value, abs=1e-12)


def test_ranks_are_as_they_were() -> None:
    known = truth()
    known[known[:, 1] == 1, 1] = 0  # a class without a positive
    outcome = ranking(1.0, 0, known)
    assert np.array_equal(outcome.resampled, resampled_map(outcome.scores, known)), "to the last bit"
    each = [average_precision(outcome.scores[:, at], known[:, at]) for at in range(3)]
    assert outcome.per_class() == pytest.approx(each, nan_ok=True) and np.isnan(each[1])
    assert outcome.positives.tolist() == (known == 1).sum(0).tolist()


def test_of_each_class_the_interval_is_its_own() -> None:
    outcome = masked(np.random.default_rng(2))
    of_classes = MeanIoU.joint_classes([[outcome]])
    assert [one.value for one in of_classes] == pytest.approx(outcome.per_class().tolist())
    draws = outcome.resampled_classes[1]
    assert of_classes[1] == centered(float(outcome.per_class()[1]), draws)
    gone = MeanIoU(outcome.confusions * (np.arange(4) != 3) * (np.arange(4) != 3)[:, None])
    assert np.isnan(MeanIoU.joint_classes([[gone]])[3].value) and gone.value == pytest.approx(
        np.mean(gone.per_class()[:3])
    )


def test_seeds_are_resampled_jointly() -> None:
    outcomes = [[masked(np.random.default_rng(seed))] for seed in range(3)]
    score = joint_score(outcomes)  # type: ignore[arg-type]
    assert score.value == pytest.approx(np.mean([one.value for (one,) in outcomes]))
    draws = np.mean([one.resampled for (one,) in outcomes], axis=0)
    assert score.high - score.low == pytest.approx(np.subtract(*np.quantile(draws, (0.975, 0.025))))
    gap = MeanIoU.gap(outcomes[:1], outcomes[1:2])  # type: ignore[arg-type]
    assert gap.value == pytest.approx(outcomes[1][0].value - outcomes[0][0].value)


def both_networks(
    rng: np.random.Generator, count: int
) -> tuple[list[ImageDetections], list[ImageDetections], list[Objects]]:
    """What two networks found, the same number of boxes of each class, and what is there."""
    found, known = make_images(rng, count, 2, ties=False)
    places = rng.permutation(sum(len(scores) for _, scores, _ in found)).astype(np.float32)
    parts = np.split(places, np.cumsum([len(scores) for _, scores, _ in found])[:-1])
    return found, [(one[0], part, one[2]) for one, part in zip(found, parts, strict=True)], known


@pytest.mark.parametrize("rule", RULES)
def test_side_by_side_each_alone_is_as_it_was(rule: Points) -> None:
    first, second, known = both_networks(np.random.default_rng(3), 30)
    one, two = (detections_outcome(found, known, rule, 2) for found in (first, second))
    alone = np.repeat([1.0, 0.0], 30)[:, None]
    measure = one.side_by_side(two)
    assert measure(alone)[0] == pytest.approx(one.value) and measure(1 - alone)[0] == pytest.approx(two.value)


def test_swaps_are_all_swaps() -> None:
    """Boxes whose scores are places already, of which no two networks share one."""
    first, second, known = both_networks(np.random.default_rng(4), 8)
    one, two = (detections_outcome(found, known, "all points", 2) for found in (first, second))

    def placed(found: list[ImageDetections], later: float) -> list[ImageDetections]:
        """Scores by place within the class, as the test takes them; the one network's a little behind the other's."""
        scores, labels = (np.concatenate([each[at] for each in found]) for at in (1, 2))
        places = np.array([(scores[labels == label] > s).sum() for s, label in zip(scores, labels, strict=True)])
        parts = np.split(-(places + later), np.cumsum([len(each[1]) for each in found])[:-1])
        return [(each[0], part.astype(np.float32), each[2]) for each, part in zip(found, parts, strict=True)]

    # Of the same place the lower image is first: a hundredth of a place per image.
    sides = [
        [(b, (s - at / 100).astype(np.float32), c) for at, (b, s, c) in enumerate(placed(found, 0))]
        for found in (first, second)
    ]

    def gap(stays: tuple[bool, ...]) -> float:
        ones = [a if stay else b for stay, a, b in zip(stays, *sides, strict=True)]
        twos = [b if stay else a for stay, a, b in zip(stays, *sides, strict=True)]
        return (
            detections_outcome(ones, known, "all points", 2).value
            - detections_outcome(twos, known, "all points", 2).value
        )

    every = [gap(stays) for stays in product((True, False), repeat=8)]
    assert every[0] == pytest.approx(one.value - two.value)
    wanted = np.mean(np.abs(every) >= abs(every[0]) - 1e-6)
    found = BoxAP.tested([one], [two])
    assert found.p == pytest.approx(wanted, abs=0.05) and found.test == "swaps of images"
    assert BoxAP.tested([two], [one]).p == pytest.approx(found.p, abs=0.05)
    assert BoxAP.tested([one, one], [one]).p == 1


def test_swaps_of_masks_are_all_swaps() -> None:
    one, two = (masked(np.random.default_rng(seed), 8, skill=skill) for seed, skill in ((5, 0.5), (6, 0.7)))
    every = []
    for stays in product((True, False), repeat=8):
        which = np.array(stays)[:, None, None]
        ones, twos = (np.where(which, a.confusions, b.confusions) for a, b in ((one, two), (two, one)))
        every.append(MeanIoU(ones).value - MeanIoU(twos).value)
    wanted = np.mean(np.abs(every) >= abs(every[0]) - 1e-9)
    assert MeanIoU.tested([one], [two]).p == pytest.approx(wanted, abs=0.05)
    assert MeanIoU.tested([one], [one]).p == 1


def test_a_better_network_is_told_from_a_worse_one() -> None:
    rng = np.random.default_rng(7)
    found, known = make_images(rng, 60, ties=False)
    blind = [(one[0], rng.random(len(one[1])).astype(np.float32), one[2]) for one in found]
    exact = [(one.boxes, np.full(len(one.labels), 0.9, np.float32), one.labels) for one in known]
    best, worst = (BoxAP(Detections.of(each, known, 3), "11 points") for each in (exact, blind))
    assert best.value == 1 and BoxAP.tested([worst], [best]).p == 1 / (1 + bootstrap.SWAPS)


def covered(drawn: Callable[[], Weighted], wanted: float, times: int = 60) -> float:
    """How often an interval holds the number of all images that there could be."""
    scores = [make_row("all", "", 0, "", {}, None, [drawn()]).score for _ in range(times)]
    return float(np.mean([one.low <= wanted <= one.high for one in scores]))


def test_coverage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images drawn from very many."""
    monkeypatch.setattr(bootstrap, "SLOW_RESAMPLES", 200)
    rng = np.random.default_rng(8)
    found, known = detected_world(rng, 3000)

    def some() -> BoxAP:
        drawn = rng.integers(0, 3000, 150)
        return detections_outcome([found[at] for at in drawn], [known[at] for at in drawn], "all points", 2)

    assert covered(some, detections_outcome(found, known, "all points", 2).value) > 0.85
    world = masked(rng, 3000)
    assert covered(lambda: MeanIoU(world.confusions[rng.integers(0, 3000, 100)]), world.value) > 0.85


def detected_world(rng: np.random.Generator, count: int) -> tuple[list[ImageDetections], list[Objects]]:
    """Images with one or two objects, found more often and with higher scores than what is not there."""
    found, known = [], []
    for _ in range(count):
        n = int(rng.integers(1, 3))
        there = Objects(make_boxes(rng, n, 60), rng.integers(0, 2, n), np.zeros(n, dtype=np.bool_))
        seen = rng.random(n) < 0.7
        wrong = make_boxes(rng, 2, 60)
        placed: NDArray[np.float32] = np.concatenate([there.boxes[seen], wrong])
        scores = np.concatenate([rng.normal(1.0, 1, seen.sum()), rng.normal(0, 1, 2)]).astype(np.float32)
        found.append((placed, scores, np.concatenate([there.labels[seen], rng.integers(0, 2, 2)])))
        known.append(there)
    return found, known
