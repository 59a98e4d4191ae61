"""A class behind one address, a flood from it, and an owner who gives the token."""

import http.client
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from browser import Answer, Site, serve_app
from processes import Launcher
from turing_studies import MakeStudy, wait_until_served, write_images
from waits import PATIENCE, wait_until

from pretint.apps.turing.pages import study_app
from pretint.apps.turing.results import result_lines
from pretint.apps.turing.store import Store
from pretint.apps.web.security import RateLimit

FORM = "application/x-www-form-urlencoded"
TOKEN = "a long and random token"
CLASS = 60


@pytest.fixture
def store(make_study: MakeStudy) -> Store:
    return make_study(practice=1, trials=2, seconds=0.05)


@pytest.fixture
def study(store: Store) -> Iterator[Site]:
    with serve_app(lambda address: study_app(store, TOKEN, address, {"localhost"})) as site:
        yield site


class Participant:
    """A browser: one connection, on which it asks for what the pages ask for, again where they do."""

    def __init__(self, site: Site, link: str) -> None:
        self.site, self.link = site, link
        self.statuses: list[int] = []
        self.place = ""

    def ask(self, path: str, sent: str | None = None, kind: str = "application/json") -> Answer:
        for wait in (0.1, 0.2, 0.4, 0.8, 1.6, 3.2):
            headers = {"content-type": kind} if sent is not None else {}
            try:
                answered = self.site.ask(path, None if sent is None else sent.encode(), **headers)
            except (ConnectionError, http.client.HTTPException):  # the server is being started again
                self.statuses.append(0)
            else:
                self.statuses.append(answered.status)
                if answered.status < 400:
                    return answered
            time.sleep(wait)
        raise AssertionError((path, self.statuses[-5:]))

    def load(self, path: str) -> None:
        """A page and its files."""
        for file in re.findall(r'(?:src|href)="(/static/[^"]+)"', self.ask(path).body.decode()):
            self.ask(file)

    def join(self) -> None:
        self.load(self.link)
        self.place = self.ask(self.link, "vision=yes", FORM).headers["location"]
        self.load(self.place)

    def take_part(self) -> None:
        """Until nothing is left to be answered."""
        while (state := self.ask(f"{self.place}/state").json)["trial"] is not None:
            trial = state["trial"]
            if not state["seen"]:
                for side in ("first", "second"):
                    # Not asked for again: in another tab it may have been seen meanwhile.
                    self.statuses.append(self.site.ask(f"{self.place}/image/{trial}/{side}").status)
                self.ask(f"{self.place}/seen", f'{{"trial": {trial}}}')
                time.sleep(0.05)
            self.ask(f"{self.place}/answer", f'{{"trial": {trial}, "chosen": "first", "shown_ms": 50}}')


def together(jobs: list[Callable[[], None]]) -> None:
    """Do all at once, and fail as the first of them that fails."""
    failures: list[BaseException] = []

    def run(job: Callable[[], None]) -> None:
        try:
            job()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.slow
def test_a_class_behind_one_address_takes_part_at_once(study: Site, store: Store) -> None:
    pupils = [Participant(study, f"/join/{store.facts.token}") for _ in range(CLASS)]

    def take_part(pupil: Participant) -> None:
        pupil.join()
        for _ in range(5):
            pupil.load(pupil.place)  # impatient
        pupil.take_part()

    together([lambda pupil=pupil: take_part(pupil) for pupil in pupils])  # type: ignore[misc]
    assert {status for pupil in pupils for status in pupil.statuses} <= {200, 303}
    assert [finished for _, finished in store.participants()] == [True] * CLASS
    assert result_lines(store)[0] == f"{CLASS} participants, {CLASS} of them finished; {2 * CLASS} scored answers"


@pytest.mark.slow
def test_a_study_that_is_started_again_loses_no_answer(launcher: Launcher, tmp_path: Path) -> None:
    real, fake = write_images(tmp_path / "images", ["a", "b", "c", "d"], 1)
    words = ["--real", real, "--algorithm", f"one={fake}", "--practice", "0", "--trials", "4", "--size", "16"]
    first = launcher.start("turing", tmp_path / "study", "--port", "0", *words)
    site, link = wait_until_served(first)
    pupils = [Participant(site, link) for _ in range(20)]
    together([pupil.join for pupil in pupils])
    requests = sum(len(pupil.statuses) for pupil in pupils)
    threads = [threading.Thread(target=lambda pupil=pupil: _until_killed(pupil)) for pupil in pupils]
    for thread in threads:
        thread.start()
    wait_until(lambda: sum(len(pupil.statuses) for pupil in pupils) > requests + 40, "they take part")
    first.kill()
    first.wait()
    for thread in threads:
        thread.join()
    second = launcher.start("turing", tmp_path / "study", "--port", "0")
    site, _ = wait_until_served(second)
    for pupil in pupils:
        pupil.site = site
    together([pupil.take_part for pupil in pupils])
    second.signal(signal.SIGINT)
    assert second.wait() == 130
    assert "20 participants, 20 of them finished; 80 scored answers" in second.output


def _until_killed(pupil: Participant) -> None:
    with pytest.raises((AssertionError, ConnectionError)):
        pupil.take_part()
        raise ConnectionError  # done before


def test_one_link_in_many_tabs_keeps_one_answer_a_pair(study: Site, store: Store) -> None:
    first = Participant(study, f"/join/{store.facts.token}")
    first.join()
    tabs = [first, *(Participant(study, first.link) for _ in range(7))]
    for tab in tabs:
        tab.place = first.place
    together([tab.take_part for tab in tabs])
    assert [row.number for row in store.rows()] == [0, 1, 2] and len(store.participants()) == 1


@pytest.mark.slow
def test_the_owner_enters_after_a_thousand_wrong_tokens(study: Site) -> None:
    for number in range(500):
        assert study.ask(f"/admin?token={number}").status == 403
        assert study.ask("/admin", f"token={number}".encode(), content_type=FORM).status == 403
    assert study.ask(f"/admin?token={quote(TOKEN)}").status == 303
    entered = study.ask("/admin", f"token={quote(TOKEN)}".encode(), content_type=FORM)
    assert entered.status == 303
    cookie = entered.headers["set-cookie"].partition(";")[0]
    assert study.ask("/admin", cookie=cookie).status == 200


@pytest.mark.slow
def test_a_flood_without_a_link_is_bounded_and_shuts_nobody_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretint.apps.turing.pages._STRANGERS", RateLimit(300, 6))  # a tenth, as is the flood
    with serve_app(lambda address: study_app(store, TOKEN, address, {"localhost"})) as study:
        pupil = Participant(study, f"/join/{store.facts.token}")
        pupil.join()
        statuses = _statuses(study, (f"/go/{number}/state" for number in range(500)))
        assert set(statuses) == {404, 429} and statuses.count(404) > 250
        pupil.statuses.clear()
        pupil.ask(f"{pupil.place}/state")
        pupil.load(pupil.place)
        pupil.take_part()
        assert set(pupil.statuses) == {200}, "at the address of the flood"
        cookie = study.ask(f"/admin?token={quote(TOKEN)}").headers["set-cookie"].partition(";")[0]
        assert study.ask("/admin", cookie=cookie).status == 200
        assert study.ask("/admin/results.json", cookie=cookie).status == 200
        assert study.ask("/static/results.js").status == 200, "which the owner's page needs"


@pytest.mark.slow
def test_participants_that_one_address_makes_are_bounded(study: Site, store: Store) -> None:
    link = f"/join/{store.facts.token}"
    statuses = [study.ask(link, b"vision=yes", content_type=FORM).status for _ in range(500)]
    made = len(store.participants())
    assert statuses.count(303) == made and 400 <= made < 480 and statuses[-1] == 429
    assert study.ask(link).status == 200, "and pages are seen"


def test_one_participant_is_bounded(study: Site, store: Store) -> None:
    first, second = (Participant(study, f"/join/{store.facts.token}") for _ in range(2))
    first.join()
    second.join()
    statuses = _statuses(study, [f"{first.place}/state"] * 600)
    assert set(statuses) == {200, 429}
    assert study.ask(f"{second.place}/state").status == 200


def _statuses(site: Site, paths: Iterable[str]) -> list[int]:
    """Of many requests on one connection."""
    connection = http.client.HTTPConnection(site.address.removeprefix("http://"), timeout=PATIENCE)
    statuses = []
    for path in paths:
        connection.request("GET", path)
        response = connection.getresponse()
        response.read()
        assert response.status != 429 or int(response.headers["retry-after"]) > 0
        statuses.append(response.status)
    connection.close()
    return statuses
