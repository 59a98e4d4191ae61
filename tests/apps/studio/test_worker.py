"""The studio's worker: one request at a time, the latest of each lane, and a limit to how many wait."""

import threading

import pytest
from waits import PATIENCE

from pretint.apps.studio.worker import Client, SupersededError, TooManyRequestsError, Worker

ME = Client("10.0.0.1", "mine")


def test_of_what_waits_in_a_lane_only_the_latest_is_done() -> None:
    workshop, begun, go_on, done = Worker(), threading.Event(), threading.Event(), []

    def busy() -> str:
        begun.set()
        go_on.wait(PATIENCE)
        return "first"

    first = workshop.submit(ME, "slider", busy)
    assert begun.wait(PATIENCE)
    waiting = [workshop.submit(ME, "slider", lambda index=index: done.append(index)) for index in range(5)]  # type: ignore[misc]
    other = workshop.submit(ME, "download", lambda: done.append("download"))
    go_on.set()
    assert first.result() == "first", "what was begun is finished"
    other.result()
    assert done == [4, "download"]
    assert all(isinstance(one.exception(), SupersededError) for one in waiting[:-1])
    failed = workshop.submit(ME, "slider", lambda: 1 / 0)
    assert isinstance(failed.exception(), ZeroDivisionError)
    assert workshop.submit(ME, "slider", lambda: "still there").result() == "still there"
    workshop.close()


def test_a_crowd_is_refused_and_a_closed_workshop_leaves_nobody_waiting() -> None:
    workshop, begun, go_on = Worker(), threading.Event(), threading.Event()
    workshop.submit(ME, "busy", lambda: (begun.set(), go_on.wait(PATIENCE)))
    assert begun.wait(PATIENCE)
    waiting = []
    with pytest.raises(TooManyRequestsError):
        for lane in range(1000):
            waiting.append(workshop.submit(ME, lane, lambda: None))
    workshop.close()
    assert isinstance(waiting[-1].exception(), SupersededError)
    go_on.set()
