"""What a study keeps: at once, once, and in order."""

import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from processes import Launcher
from turing_studies import MakeStudy

from pretext.errors import UserError
from pretint.apps.turing.store import REAL, ShownPair, Store, draw_algorithm, draw_trials


def test_a_participant_sees_no_pair_twice_and_the_same_order_always() -> None:
    trials = draw_trials(1, 4, pairs=60, count=50)
    assert trials == draw_trials(1, 4, pairs=60, count=50)
    assert len({trial.pair for trial in trials}) == 50 and all(0 <= trial.pair < 60 for trial in trials)
    assert trials != draw_trials(1, 5, pairs=60, count=50) and trials != draw_trials(2, 4, pairs=60, count=50)


def test_over_many_participants_every_pair_and_side_comes_as_often() -> None:
    shown = [trial for participant in range(2000) for trial in draw_trials(0, participant, pairs=20, count=10)]
    counts = np.array(list(Counter(trial.pair for trial in shown).values()))
    assert len(counts) == 20 and (abs(counts - 1000) < 5 * np.sqrt(500)).all()
    assert abs(sum(trial.fake_first for trial in shown) - 10_000) < 5 * np.sqrt(5000)


def test_algorithms_are_balanced_after_every_participant() -> None:
    counts, first = [0, 0, 0], []
    for participant in range(300):
        taken = draw_algorithm(7, participant, counts)
        counts[taken] += 1
        assert max(counts) - min(counts) <= 1
        if participant % 3 == 0:
            first.append(taken)
    assert min(Counter(first).values()) > 15, "and which comes first is drawn"


ON_TIME = ShownPair(shown_ms=201.0, frames=12, longest_frame_ms=17.0, hidden=False, response_ms=900.0)


def test_a_trial_is_shown_once_and_answered_once_in_its_turn(make_study: MakeStudy) -> None:
    store = make_study()
    number = store.join("somebody", "yes")
    assert store.participant("nobody") is None
    assert not store.answer(number, 0, True, ON_TIME), "not shown yet"
    assert not store.see(number, 1), "not its turn"
    assert store.see(number, 0) and not store.see(number, 0)
    assert store.participant("somebody")[2:] == (0, True)
    assert store.answer(number, 0, True, ON_TIME) and not store.answer(number, 0, False, ON_TIME)
    assert not store.answer(number, 99, True, ON_TIME) and not store.see(number, 99)
    assert store.participant("somebody")[2:] == (1, False)
    (row,) = store.rows()
    assert row.chose_first and row.shown == ON_TIME and row.practice and not row.counts
    assert row.fooled == (not store.trial(number, 0).fake_first)


@pytest.mark.parametrize(
    ("shown", "on_time"),
    [
        (ON_TIME, True),
        (ON_TIME._replace(shown_ms=249.0), True),
        (ON_TIME._replace(shown_ms=251.0), False),
        (ON_TIME._replace(shown_ms=100.0), False),
        (ON_TIME._replace(hidden=True), False),
        (ShownPair(), False),
    ],
)
def test_a_pair_not_shown_as_long_as_it_should_be_is_flagged(
    make_study: MakeStudy, shown: ShownPair, on_time: bool
) -> None:
    store = make_study(practice=0)
    number = store.join("somebody", "yes")
    at(store, 100.0).see(number, 0)
    at(store, 100.2).answer(number, 0, True, shown)
    (row,) = store.rows()
    assert row.on_time == row.counts == on_time


@pytest.mark.parametrize(("seconds", "on_time"), [(0.002, False), (0.14, False), (0.16, True), (3600.0, True)])
def test_no_pair_was_shown_for_longer_than_its_answer_took(
    make_study: MakeStudy, seconds: float, on_time: bool
) -> None:
    """Whatever the browser says."""
    store = make_study(practice=0)
    number = store.join("somebody", "yes")
    at(store, 100.0).see(number, 0)
    at(store, 100.0 + seconds).answer(number, 0, True, ON_TIME)
    (row,) = store.rows()
    assert row.on_time == row.counts == on_time


def at(store: Store, seconds: float) -> Store:
    """A study whose clock says that."""
    store.clock = lambda: seconds
    return store


def test_who_does_not_see_colors_is_kept_apart(make_study: MakeStudy) -> None:
    store = make_study(practice=0)
    for vision in ("yes", "unsure", "no"):
        number = store.join(vision, vision)
        at(store, 100.0).see(number, 0)
        at(store, 101.0).answer(number, 0, True, ON_TIME)
    assert [row.counts for row in store.rows()] == [True, True, False]
    for index in range(3):
        store.join(f"more {index}", "yes")
    people = [store.participant(name) for name in ("yes", "unsure", "more 0", "more 1", "more 2")]
    taken = [who.algorithm for who in people if who]
    assert sorted(taken[:4]) == [0, 0, 1, 1], "balanced without them"


def test_algorithms_stay_balanced_though_participants_leave(make_study: MakeStudy) -> None:
    """Who left an hour ago without finishing is replaced."""
    store = make_study()
    first = [at(store, 1000.0 + index).join(f"early {index}", "yes") for index in range(4)]
    taken = [store.participant(f"early {index}").algorithm for index in range(4)]
    assert sorted(taken) == [0, 0, 1, 1]
    stays = next(index for index in range(4) if taken[index] == 0)
    for trial in range(5):
        store.see(first[stays], trial)
        store.answer(first[stays], trial, True, ON_TIME)
    at(store, 9000.0).join("late", "yes")
    assert store.participant("late").algorithm == 1


@pytest.mark.slow
def test_an_answer_outlives_the_process_that_kept_it(make_study: MakeStudy, launcher: Launcher) -> None:
    store = make_study()
    file = store.file
    store.close()
    program = """
import os, signal, sys
from pathlib import Path
from pretint.apps.turing.store import ShownPair, Store
store = Store.open(Path(sys.argv[1]))
number = store.join("somebody", "yes")
store.see(number, 0)
store.answer(number, 0, True, ShownPair())
store.see(number, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert launcher.run(file, code=program).returncode == -9
    again = Store.open(file)
    assert again.participant("somebody")[2:] == (1, True), "answered the first, and the second was seen"
    again.close()


def test_how_many_fooled_is_counted(make_study: MakeStudy) -> None:
    store = make_study()
    for who in range(2):
        number = store.join(f"somebody {who}", "yes")
        for trial in range(5):
            store.see(number, trial)
            store.answer(number, trial, store.trial(number, trial).fake_first == (who == 0 and trial != 3), ON_TIME)
            rows = [row for row in store.rows() if row.participant == number and not row.practice]
            assert store.fooled(number) == sum(row.fooled for row in rows)
    assert [store.fooled(number) for number in range(3)] == [1, 3, 0]


def test_a_full_disk_is_the_error_that_is_said(make_study: MakeStudy) -> None:
    store = make_study()
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages}")  # as a full disk: SQLite itself rolls back
    with pytest.raises(sqlite3.OperationalError, match="full"):
        for number in range(1000):
            store.join(f"somebody {number}", "yes")
    joined = len(store.participants())
    store._db.execute("PRAGMA max_page_count = 1000000")
    assert store.join("late", "yes") == joined


def test_only_its_owner_reads_a_study(make_study: MakeStudy) -> None:
    store = make_study()
    store.join("somebody", "yes")
    found = {file.name: file.stat().st_mode & 0o777 for file in store.file.parent.glob("study.db*")}
    assert found == dict.fromkeys(("study.db", "study.db-wal", "study.db-shm"), 0o600)
    assert store.file.parent.stat().st_mode & 0o777 == 0o700


def test_images_by_number_alone(make_study: MakeStudy) -> None:
    store = make_study()
    real, fake = store.image(0, REAL), store.image(0, 1)
    assert real and fake and real != fake and len(real) == len(fake)
    assert store.image(0, 2) is None and store.image(99, REAL) is None


@pytest.mark.parametrize("content", [b"", b"no database at all, but some text" * 100, None])
def test_what_is_no_study_is_said_in_a_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "study.db"
    if content is None:
        sqlite3.connect(file).execute("CREATE TABLE other (x)").connection.close()
    else:
        file.write_bytes(content)
    with pytest.raises(UserError, match=r"study\.db: ") as said:
        Store.open(file)
    assert "\n" not in str(said.value)
