"""What a study keeps: at once, once, and in order."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from studying import MakeStudy

from colorization.turing.store import REAL, Shown, Store
from pretext.errors import UserError

ON_TIME = Shown(shown_ms=201.0, frames=12, longest_frame_ms=17.0, hidden=False, response_ms=900.0)


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
        (Shown(), False),
    ],
)
def test_a_pair_not_shown_as_long_as_it_should_be_is_flagged(
    make_study: MakeStudy, shown: Shown, on_time: bool
) -> None:
    store = make_study(practice=0)
    number = store.join("somebody", "yes")
    store.see(number, 0)
    store.answer(number, 0, True, shown)
    (row,) = store.rows()
    assert row.on_time == row.counts == on_time


def test_who_does_not_see_colours_is_kept_apart(make_study: MakeStudy) -> None:
    store = make_study(practice=0)
    for vision in ("yes", "unsure", "no"):
        number = store.join(vision, vision)
        store.see(number, 0)
        store.answer(number, 0, True, ON_TIME)
    assert [row.counts for row in store.rows()] == [True, True, False]
    for index in range(3):
        store.join(f"more {index}", "yes")
    people = [store.participant(name) for name in ("yes", "unsure", "more 0", "more 1", "more 2")]
    taken = [who.algorithm for who in people if who]
    assert sorted(taken[:4]) == [0, 0, 1, 1], "balanced without them"


def test_algorithms_stay_balanced_though_participants_leave(make_study: MakeStudy) -> None:
    """Who left an hour ago without finishing is replaced."""
    store = make_study()
    first = [store.join(f"early {index}", "yes", now=1000.0 + index) for index in range(4)]
    taken = [store.participant(f"early {index}").algorithm for index in range(4)]
    assert sorted(taken) == [0, 0, 1, 1]
    stays = next(index for index in range(4) if taken[index] == 0)
    for trial in range(5):
        store.see(first[stays], trial)
        store.answer(first[stays], trial, True, ON_TIME)
    store.join("late", "yes", now=9000.0)
    assert store.participant("late").algorithm == 1


def test_an_answer_outlives_the_process_that_kept_it(make_study: MakeStudy) -> None:
    store = make_study()
    file = store.file
    store.close()
    program = """
import os, signal, sys
from pathlib import Path
from colorization.turing.store import Shown, Store
store = Store.open(Path(sys.argv[1]))
number = store.join("somebody", "yes")
store.see(number, 0)
store.answer(number, 0, True, Shown())
store.see(number, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program, str(file)], cwd=Path(__file__).parents[3])
    assert done.returncode == -9
    again = Store.open(file)
    assert again.participant("somebody")[2:] == (1, True), "answered the first, and the second was seen"
    again.close()


def test_pictures_by_number_alone(make_study: MakeStudy) -> None:
    store = make_study()
    real, fake = store.picture(0, REAL), store.picture(0, 1)
    assert real and fake and real != fake and len(real) == len(fake)
    assert store.picture(0, 2) is None and store.picture(99, REAL) is None


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
