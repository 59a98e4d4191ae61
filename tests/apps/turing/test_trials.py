"""Orders, sides and algorithms: random, and a function of seed and participant."""

from collections import Counter

import numpy as np

from pretint.apps.turing.trials import next_algorithm, trials_of


def test_a_participant_sees_no_pair_twice_and_the_same_order_always() -> None:
    trials = trials_of(1, 4, pairs=60, count=50)
    assert trials == trials_of(1, 4, pairs=60, count=50)
    assert len({trial.pair for trial in trials}) == 50 and all(0 <= trial.pair < 60 for trial in trials)
    assert trials != trials_of(1, 5, pairs=60, count=50) and trials != trials_of(2, 4, pairs=60, count=50)


def test_over_many_participants_every_pair_and_side_comes_as_often() -> None:
    shown = [trial for participant in range(2000) for trial in trials_of(0, participant, pairs=20, count=10)]
    counts = np.array(list(Counter(trial.pair for trial in shown).values()))
    assert len(counts) == 20 and (abs(counts - 1000) < 5 * np.sqrt(500)).all()
    assert abs(sum(trial.fake_first for trial in shown) - 10_000) < 5 * np.sqrt(5000)


def test_algorithms_are_balanced_after_every_participant() -> None:
    counts, first = [0, 0, 0], []
    for participant in range(300):
        taken = next_algorithm(7, participant, counts)
        counts[taken] += 1
        assert max(counts) - min(counts) <= 1
        if participant % 3 == 0:
            first.append(taken)
    assert min(Counter(first).values()) > 15, "and which comes first is drawn"
