"""The fooling rate against brute force, and the order of images."""

import itertools

import numpy as np
import pytest

from pretint.apps.turing.results import Answer, FooledImage, extremes, fooling_rate, judged_images, rate_of


def every_resample(answers: list[list[int]]) -> dict[float, float]:
    """The exact distribution of the resampled rate: all draws of participants, then all draws of their trials."""
    chances: dict[float, float] = {}
    for who in itertools.product(range(len(answers)), repeat=len(answers)):
        drawn = [itertools.product(answers[one], repeat=len(answers[one])) for one in who]
        count = np.prod([len(answers[one]) ** len(answers[one]) for one in who])
        for trials in itertools.product(*drawn):
            rate = sum(map(sum, trials)) / sum(map(len, trials))
            chances[round(rate, 9)] = chances.get(round(rate, 9), 0) + 1 / count / len(answers) ** len(answers)
    return chances


@pytest.mark.parametrize("answers", [[[1, 0], [0, 0, 1]], [[1, 1, 0], [0, 0]], [[1, 0, 0], [1, 1], [0, 0]]])
def test_the_bootstrap_against_all_resamples_there_are(answers: list[list[int]]) -> None:
    """Sides of unequal length too: who answered more counts more."""
    chances = every_resample(answers)
    assert sum(chances.values()) == pytest.approx(1)
    mean = sum(rate * chance for rate, chance in chances.items())
    error = sum((rate - mean) ** 2 * chance for rate, chance in chances.items()) ** 0.5
    found = fooling_rate([sum(one) for one in answers], [len(one) for one in answers], resamples=200_000)
    assert found.estimate.value == sum(map(sum, answers)) / sum(map(len, answers))
    assert found.error == pytest.approx(error, rel=0.01)
    assert (found.participants, found.trials) == (len(answers), sum(map(len, answers)))
    rates = sorted(chances)
    below = np.cumsum([chances[rate] for rate in rates])
    for bound, share in ((found.estimate.low, 0.025), (found.estimate.high, 0.975)):
        at = next(index for index, reached in enumerate(below) if reached >= share - 1e-3)
        assert bound == pytest.approx(rates[at], abs=1e-6)


@pytest.mark.slow
def test_against_a_plain_loop_over_participants_and_trials() -> None:
    rng = np.random.default_rng(3)
    answers = [rng.integers(0, 2, 40) if who % 2 else rng.random(40) < 0.1 for who in range(12)]
    draws = []
    for _ in range(20_000):
        trials = [rng.choice(answers[who], 40) for who in rng.integers(0, 12, 12)]
        draws.append(np.concatenate(trials).mean())
    found = fooling_rate([one.sum() for one in answers], [40] * 12)
    assert found.error == pytest.approx(np.std(draws), rel=0.03)
    assert found.estimate.low == pytest.approx(np.quantile(draws, 0.025), abs=0.006)
    assert found.estimate.high == pytest.approx(np.quantile(draws, 0.975), abs=0.006)
    one_level = np.sqrt(found.estimate.value * (1 - found.estimate.value) / 480)
    assert found.error > 2 * one_level, "participants differ, and the interval knows"


def test_where_all_answers_are_alike_the_interval_has_a_width() -> None:
    for fooled, ends in ((0, (0.0, 1 - 0.025 ** (1 / 3))), (40, (0.025 ** (1 / 3), 1.0))):
        found = fooling_rate([fooled] * 3, [40] * 3)
        assert (found.estimate.low, found.estimate.high) == pytest.approx(ends)


def test_rates_and_images_of_an_algorithm() -> None:
    answers = [Answer(0, 0, 5, True), Answer(0, 0, 6, False), Answer(1, 1, 5, False), Answer(2, 0, 5, True)]
    rate = rate_of(answers, 0)
    assert rate is not None and (rate.estimate.value, rate.participants, rate.trials) == (2 / 3, 2, 3)
    assert rate_of(answers, 2) is None
    assert judged_images(answers, 0) == [FooledImage(5, 2, 2), FooledImage(6, 0, 1)]


def test_one_lucky_answer_does_not_outrank_many() -> None:
    answers = [Answer(who, 0, 1, who < 9) for who in range(10)] + [Answer(0, 0, 2, True)]
    assert [one.pair for one in judged_images(answers, 0)] == [1, 2]


@pytest.mark.parametrize(("count", "sizes"), [(0, (0, 0)), (1, (1, 0)), (2, (1, 1)), (5, (2, 2)), (30, (6, 6))])
def test_no_image_is_among_the_most_and_the_least_convincing(count: int, sizes: tuple[int, int]) -> None:
    judged = [FooledImage(pair, count - pair, count) for pair in range(count)]
    most, least = extremes(judged, 6)
    assert (len(most), len(least)) == sizes and not set(most) & set(least)
    assert most == judged[: len(most)] and least == judged[::-1][: len(least)]
