"""What the study's server answers, to whoever asks however."""

import csv
import io
import itertools
import json
import sqlite3
from collections.abc import Iterator

import numpy as np
import pytest
from browser import Answer, Site, serve_app
from PIL import Image
from turing_studies import HOSTILE, HOSTILE_ALGORITHM, MakeStudy

from pretint.apps.turing.pages import study_app
from pretint.apps.turing.results import answers_csv, result_lines, results_json
from pretint.apps.turing.store import Store
from pretint.apps.web.security import HEADERS

FORM = "application/x-www-form-urlencoded"


class Study(Site):
    """A served study, and what a participant of it can ask for."""

    store: Store

    def join(self, vision: str = "yes") -> str:
        answered = self.ask(f"/join/{self.store.facts.token}", f"vision={vision}".encode(), content_type=FORM)
        assert answered.status == 303
        return answered.headers["location"]

    def take(self, place: str, trial: int, chosen: str = "first", **shown: object) -> Answer:
        assert self.post(f"{place}/seen", {"trial": trial}).json["show"]
        return self.post(f"{place}/answer", {"trial": trial, "chosen": chosen, **shown})


@pytest.fixture
def store(make_study: MakeStudy) -> Store:
    return make_study(algorithms=("one", HOSTILE_ALGORITHM))


@pytest.fixture
def study(store: Store) -> Iterator[Study]:
    with serve_app(lambda address: study_app(store, "open sesame", address, {"localhost"})) as site:
        found = Study(site.address)
        found.store = store
        time = itertools.count(0.0, 0.2)  # at every look at the clock a pair has been shown for as long as it should
        store.clock = lambda: next(time)
        yield found


def test_nothing_but_the_pixels_tells_real_from_fake(study: Study) -> None:
    place = study.join()
    told: dict[bool, list[dict[str, str]]] = {True: [], False: []}
    for trial in range(5):
        for side in ("first", "second"):
            answered = study.ask(f"{place}/image/{trial}/{side}")
            pixels = np.asarray(Image.open(io.BytesIO(answered.body)))
            fake = pixels.reshape(-1, 3).min(0).max() == 255  # all of one color, as only the fakes are
            told[bool(fake)].append({name: value for name, value in answered.headers.items() if name != "date"})
        study.take(place, trial)
    assert [len(one) for one in told.values()] == [5, 5]
    assert all(headers == told[True][0] for headers in told[True] + told[False])
    assert not {"etag", "last-modified", "content-disposition"} & told[True][0].keys()
    assert int(told[True][0]["content-length"]) > 32 * 32 * 3


def test_images_are_there_from_shortly_before_they_are_shown_until_then(study: Study) -> None:
    place = study.join()

    def there() -> list[int]:
        return [trial for trial in range(6) if study.ask(f"{place}/image/{trial}/first").status == 200]

    assert there() == [0, 1, 2]
    study.post(f"{place}/seen", {"trial": 0})
    assert there() == [1, 2], "a second look is no answer's due"
    study.post(f"{place}/answer", {"trial": 0, "chosen": "first"})
    assert there() == [1, 2, 3]
    for trial in range(1, 5):
        study.take(place, trial)
    assert there() == []


def test_the_server_says_what_comes_next_and_never_what_is_fake(study: Study) -> None:
    place = study.join()
    for trial in range(5):
        state = study.ask(f"{place}/state")
        assert state.json["trial"] == trial and not state.json["seen"]
        assert set(state.json) == {"trial", "seen", "practice", "trials", "seconds", "ahead"}
        said = study.take(place, trial).json
        assert said["kept"] and (said.get("fake") in ("first", "second")) == (trial < 2), "feedback in practice only"
    done = study.ask(f"{place}/state").json
    fooled = sum(row.fooled for row in study.store.rows() if not row.practice)
    assert done["trial"] is None and done["fooled"] == fooled


def test_an_answer_is_kept_once_and_with_what_can_be_true_of_its_timing(study: Study) -> None:
    place = study.join()
    shown = {"shown_ms": 203.5, "frames": 12, "hidden": False, "layout": "beside", "side_px": 256, "pixel_ratio": 2}
    study.take(place, 0, "second", **shown)
    again = study.post(f"{place}/answer", {"trial": 0, "chosen": "first"}).json
    assert not again["kept"] and "fake" not in again and again["state"]["trial"] == 1
    wrong = {"shown_ms": -1, "frames": "many", "hidden": 3, "layout": "<b>", "side_px": True, "pixel_ratio": 1e300}
    study.take(place, 1, **wrong)
    good, bad = study.store.rows()
    assert not good.chose_first and good.on_time and good.shown.shown_ms == 203.5 and good.shown.frames == 12
    assert set(bad.shown) == {None} and not bad.on_time


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("seen", b"{}", 400),
        ("seen", b"[]", 400),
        ("seen", b"\xff", 400),
        ("seen", b"[" * 9000, 400),
        ("seen", b'{"trial": true}', 400),
        ("seen", b'{"trial": 1e3}', 400),
        ("answer", b'{"trial": 0, "chosen": "third"}', 400),
        ("answer", b'{"trial": 99999999999999999999, "chosen": "first"}', 400),
    ],
)
def test_what_no_page_of_ours_sends(study: Study, path: str, sent: bytes, status: int) -> None:
    place = study.join()
    assert study.ask(f"{place}/{path}", sent, content_type="application/json").status == status
    assert study.ask(f"{place}/{path}", sent, content_type="text/plain").status == 415
    assert not study.store.rows()


def test_numbers_that_json_has_not(study: Study) -> None:
    place = study.join()
    study.post(f"{place}/seen", {"trial": 0})
    sent = b'{"trial": 0, "chosen": "first", "shown_ms": NaN, "response_ms": Infinity}'
    assert study.ask(f"{place}/answer", sent, content_type="application/json").json["kept"]
    assert study.store.rows()[0].shown.shown_ms is None
    json.loads(json.dumps(results_json(study.store), allow_nan=False))


@pytest.mark.parametrize(
    "path",
    [
        f"/admin/image/{'9' * 5000}/real",
        f"/admin/image/{'9' * 30}/real",
        f"/go/x/image/{'9' * 5000}/first",
        "/static/../../../../etc/passwd",
        "/static/..%2f..%2f..%2fetc%2fpasswd",
        "/static/%2e%2e/pages.py",
        "/static/join.html",
        "/study.db",
        "/admin/image/0/..%2freal",
        "/admin/image/-1/real",
        "/go/x/image/0/first",
        "/go/../admin/answers.csv",
        "/go/%00",
        "//etc/passwd",
    ],
)
def test_no_path_leads_anywhere_else(study: Study, path: str) -> None:
    answered = study.ask(path)
    assert answered.status in (403, 404) and b"root:" not in answered.body and b"import" not in answered.body
    assert all(answered.headers[name] == value for name, value in HEADERS.items())


def test_joining_needs_the_link_a_post_and_an_answer(study: Study) -> None:
    link = f"/join/{study.store.facts.token}"
    assert study.ask(link).status == 200 and not study.store.participants(), "a link preview takes no place"
    assert study.ask(f"{link}x", b"vision=yes", content_type=FORM).status == 404
    assert study.ask(f"{link[:-1]}", b"vision=yes", content_type=FORM).status == 404
    assert study.ask(link, b"vision=maybe", content_type=FORM).status == 400
    assert not study.store.participants()
    places = {study.join() for _ in range(4)}
    assert len(places) == 4 and min(map(len, places)) > len("/go/") + 20
    assert sorted(algorithm for algorithm, _ in study.store.participants()) == [0, 0, 1, 1]


def test_other_sites_and_names_are_not_heard(study: Study) -> None:
    place, link = study.join(), f"/join/{study.store.facts.token}"
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec_fetch_site": "cross-site"}):
        assert study.ask(link, b"vision=yes", content_type=FORM, **headers).status == 403
        assert study.ask(f"{place}/seen", b'{"trial": 0}', content_type="application/json", **headers).status == 403
    for name in ("evil.example", "localhost.evil.example", "evil.example:80", ""):
        assert study.ask(link, host=name).status == 421
    port = study.address.rpartition(":")[2]
    for name in ("localhost", f"localhost:{port}", "192.168.1.7", "[::1]:99"):
        assert study.ask(link, host=name).status == 200


def test_bodies_are_bounded(study: Study) -> None:
    place = study.join()
    assert study.ask(f"{place}/seen", b" " * 100_000, content_type="application/json").status == 413


def test_the_admin_page_is_behind_its_token(study: Study) -> None:
    study.take(study.join(), 0)
    inside = ["/admin/answers.csv", "/admin/results.json", "/admin/image/0/real"]
    assert all(study.ask(path).status == 403 for path in inside)
    outside = study.ask("/admin")
    assert (
        outside.status == 200
        and b"participant" not in outside.body
        and study.store.facts.token.encode() not in (outside.body)
    )
    assert study.ask("/admin", b"token=open", content_type=FORM).status == 403
    entered = study.ask("/admin", b"token=open+sesame", content_type=FORM)
    assert entered.status == 303 and entered.headers["location"] == "/admin"
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=lax" in cookie and "sesame" not in cookie
    kept = cookie.partition(";")[0]
    assert all(study.ask(path, cookie=kept).status == 200 for path in inside)
    assert study.ask("/admin", cookie=f"{kept[:-1]}?").body == outside.body
    assert study.ask("/admin?token=open%20sesame").status == 303


def test_hostile_names_stay_text_in_the_page_and_in_the_table(study: Study) -> None:
    for _ in range(6):  # until all images were judged
        place = study.join()
        for trial in range(5):
            study.take(place, trial, shown_ms=200, hidden=False)
    kept = study.ask("/admin?token=open%20sesame").headers["set-cookie"].partition(";")[0]
    page = study.ask("/admin", cookie=kept).body.decode()
    assert "<img src=x" not in page and "<script>document" not in page and "&lt;img src=x" in page
    table = study.ask("/admin/answers.csv", cookie=kept).body.decode()
    assert table == answers_csv(study.store) and len(table.splitlines()) == 31
    cells = [cell for line in csv.reader(io.StringIO(table)) for cell in line]
    assert "'=1+1.jpg" in cells and f"{HOSTILE[1]}.jpg" in cells
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def test_very_long_numbers_are_no_images(study: Study) -> None:
    kept = study.ask("/admin?token=open%20sesame").headers["set-cookie"].partition(";")[0]
    place = study.join()
    for number in ("9" * 5000, "9" * 30, "-1"):
        assert study.ask(f"/admin/image/{number}/real", cookie=kept).status == 404
        assert study.ask(f"{place}/image/{number}/first").status == 404
        sent = f'{{"trial": {number}, "chosen": "first"}}'.encode()
        assert study.ask(f"{place}/answer", sent, content_type="application/json").status == 400


def test_a_file_that_another_program_writes_to_is_said(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    place = study.join()
    study.store._db.execute("PRAGMA busy_timeout = 10")
    other = sqlite3.connect(study.store.file)
    other.execute("BEGIN IMMEDIATE")
    refused = study.post(f"{place}/seen", {"trial": 0})
    assert refused.status == 503 and "at the moment" in refused.json["problem"]
    other.close()
    assert study.post(f"{place}/seen", {"trial": 0}).json["show"]


def test_the_interval_of_one_participant_is_no_ones_else(study: Study) -> None:
    kept = study.ask("/admin?token=open%20sesame").headers["set-cookie"].partition(";")[0]
    for count in (1, 2):
        for _ in range(2):  # one for each algorithm
            place = study.join()
            for trial in range(5):
                study.take(place, trial, shown_ms=200, hidden=False)
        page = study.ask("/admin", cookie=kept).body.decode()
        assert page.count("says nothing about other people") == (2 if count == 1 else 0)
        lines = result_lines(study.store)
        assert sum("says nothing about other people" in line for line in lines) == (2 if count == 1 else 0)
    assert "<h1>Results of the study</h1>" in page and page.index("<b>colored</b> one is on the left") < page.index(
        "<h3>"
    )


def test_the_results_of_a_study_made_up(study: Study) -> None:
    """Algorithm 0 never fools; the other does in two of three trials."""
    for _ in range(4):
        place = study.join()
        identity = place.rpartition("/")[2]
        for trial in range(5):
            who = study.store.participant(identity)
            assert who is not None
            fooled = who.algorithm == 1 and trial != 3
            first = study.store.trial(who.number, trial).fake_first != fooled
            study.take(place, trial, "first" if first else "second", shown_ms=210, hidden=False)
    study.join()
    found = results_json(study.store)
    never, often = found["algorithms"]
    assert (never["fooling_rate"], never["participants"], never["trials"]) == (0, 2, 6)
    assert often["fooling_rate"] == pytest.approx(2 / 3) and often["interval"][0] < 2 / 3 < often["interval"][1]
    assert never["joined"] + often["joined"] == 5 and never["finished"] == often["finished"] == 2
    assert sum(image["fooled"] for image in often["images"]) == 4
    assert "token" not in found["study"] and study.store.facts.token not in json.dumps(found)
    lines = result_lines(study.store)
    assert lines[0].startswith("5 participants, 4 of them finished; 12 scored answers")
    assert any("66.7%" in line for line in lines)
