"""Taking part, in a real browser."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from browser import open_page, serve_app
from turing_studies import HOSTILE, HOSTILE_ALGORITHM, MakeStudy

from pretint.apps.turing.pages import study_app
from pretint.apps.turing.store import Store, draw_trials

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE = {"viewport": {"width": 375, "height": 667}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
KEYS = {True: "ArrowLeft", False: "ArrowRight"}

Serve = Callable[[Store], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """serve(store): its address."""
    with ExitStack() as stack:
        yield (
            lambda store: (
                stack.enter_context(
                    serve_app(lambda address: study_app(store, "open sesame", address, {"localhost"}))
                ).address
            )
        )


def join(page: "Page", address: str, store: Store) -> None:
    page.goto(f"{address}/join/{store.facts.token}")
    page.get_by_label("Yes").check()
    page.get_by_role("button", name="Take part").click()
    page.wait_for_url("**/go/*")


def answer(page: "Page", key: str = "ArrowLeft") -> None:
    page.wait_for_selector(".asking")
    page.keyboard.press(key)


def where(page: "Page", words: str) -> None:
    page.get_by_text(words, exact=True).wait_for()


def test_a_whole_participation_by_keyboard_alone(browser: "Browser", make_study: MakeStudy, serve: Serve) -> None:
    store = make_study()
    address = serve(store)
    with open_page(browser) as page:
        page.goto(f"{address}/join/{store.facts.token}")
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.name") == "vision":
                break
        page.keyboard.press("Space")  # the first of the answers: yes
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_url("**/go/*")
        page.get_by_role("button", name="Show the first pair").wait_for()
        page.keyboard.press("Enter")
        for trial in range(5):
            fake_first = store.trial(0, trial).fake_first
            right = trial in (0, 3)
            answer(page, KEYS[fake_first == right])
            if trial < 2:
                page.get_by_role("heading", name="Right" if right else "Wrong").wait_for()
                assert page.get_by_text(f"The {'left' if fake_first else 'right'} one was the fake.").is_visible()
                page.keyboard.press("Enter")
            if trial == 1:
                page.get_by_role("button", name="Continue").wait_for()
                page.keyboard.press("Enter")
        page.get_by_text("You took 2 of 3 colored images for real.").wait_for()
        page.reload()
        page.get_by_text("You took 2 of 3 colored images for real.").wait_for()
    rows = store.rows()
    assert [row.fooled for row in rows] == [False, True, True, False, True]
    assert store.participants()[0][1], "finished"
    for row in rows:
        shown = row.shown
        assert shown.layout == "beside" and shown.side_px == 256 and shown.hidden is False
        assert shown.frames and shown.shown_ms and shown.shown_ms >= 100, "nominal, to half a frame"
        assert shown.longest_frame_ms and shown.longest_frame_ms <= shown.shown_ms


@pytest.mark.slow
def test_the_pair_is_on_the_screen_and_then_it_is_gone(browser: "Browser", make_study: MakeStudy, serve: Serve) -> None:
    store = make_study(seconds=1.5)
    address = serve(store)
    with open_page(browser) as page:
        join(page, address, store)
        page.get_by_role("button", name="Show the first pair").click()
        page.wait_for_selector(".showing")
        canvas = page.locator("canvas").first
        assert canvas.is_visible() and page.locator("#first").is_disabled()
        painted = "canvas => { const c = canvas.getContext('2d'); return [...c.getImageData(3, 3, 1, 1).data]; }"
        colors = [page.locator("canvas").nth(index).evaluate(painted)[:3] for index in range(2)]
        page.wait_for_selector(".asking")
        assert not canvas.is_visible() and canvas.evaluate(painted)[:3] == [0, 0, 0]
    assert [color in ([0, 255, 0], [0, 0, 255]) for color in colors] == [
        store.trial(0, 0).fake_first,
        not store.trial(0, 0).fake_first,
    ]


@pytest.mark.slow
def test_a_reload_while_a_pair_is_shown_asks_and_shows_nothing(
    browser: "Browser", make_study: MakeStudy, serve: Serve
) -> None:
    store = make_study(seconds=600.0)
    address = serve(store)
    with open_page(browser) as page:
        join(page, address, store)
        page.get_by_role("button", name="Show the first pair").click()
        page.wait_for_selector(".showing")
        page.reload()
        page.wait_for_selector(".asking")
        assert not page.locator("canvas").first.is_visible()
        images: list[str] = []
        page.on("request", lambda request: images.append(request.url) if "/image/0/" in request.url else None)
        page.reload()
        answer(page)
        page.get_by_role("button", name="Next pair").wait_for()
        assert not images, "what was seen is not even fetched"
    (row,) = store.rows()
    assert row.shown.shown_ms is None and not row.on_time and row.shown.response_ms is not None


@pytest.mark.slow
def test_a_closed_tab_loses_nothing(browser: "Browser", make_study: MakeStudy, serve: Serve) -> None:
    store = make_study()
    address = serve(store)
    with open_page(browser) as page:
        join(page, address, store)
        link = page.url
        page.get_by_role("button", name="Show the first pair").click()
        answer(page)
        page.get_by_role("button", name="Next pair").wait_for()
    assert len(store.rows()) == 1
    with open_page(browser) as page:
        page.goto(link)
        page.get_by_text("You continue where you stopped.").wait_for()
        where(page, "Practice 2 of 2")
        page.get_by_role("button", name="Continue").click()
        answer(page)
        page.get_by_role("button", name="Next pair").wait_for()
    assert len(store.rows()) == 2


@pytest.mark.slow
def test_a_connection_that_breaks_loses_no_answer(browser: "Browser", make_study: MakeStudy, serve: Serve) -> None:
    store = make_study()
    address = serve(store)
    with open_page(browser) as page:
        join(page, address, store)
        page.get_by_role("button", name="Show the first pair").click()
        page.wait_for_selector(".asking")
        page.context.set_offline(True)
        page.keyboard.press("ArrowRight")
        page.get_by_text("Trying again; nothing is lost.").wait_for()
        assert not store.rows()
        page.context.set_offline(False)
        page.get_by_role("button", name="Next pair").wait_for()
        assert not page.get_by_text("Trying again").is_visible()
    assert [row.chose_first for row in store.rows()] == [False]


@pytest.mark.slow
def test_two_participants_at_once(browser: "Browser", make_study: MakeStudy, serve: Serve) -> None:
    store = make_study()
    address = serve(store)
    with open_page(browser) as one, open_page(browser) as other:
        pages = [one, other]
        for page in pages:
            join(page, address, store)
            page.get_by_role("button", name="Show the first pair").click()
        for trial in range(5):
            for number, page in enumerate(pages):
                answer(page, ["ArrowLeft", "2"][number])
                if trial < 2:
                    page.get_by_role("button", name="Next pair").click()
                if trial == 1:
                    page.get_by_role("button", name="Continue").click()
        for page in pages:
            page.get_by_role("heading", name="Thank you").wait_for()
        assert one.url != other.url
    rows = store.rows()
    assert {row.algorithm for row in rows if row.participant == 0} != {
        row.algorithm for row in rows if row.participant == 1
    }
    for number in range(2):
        mine = [row for row in rows if row.participant == number]
        assert [row.chose_first for row in mine] == [number == 0] * 5
        assert [(row.pair, row.fake_first) for row in mine] == draw_trials(0, number, len(store.names), 5)


@pytest.mark.slow
def test_the_same_participant_in_two_tabs(browser: "Browser", make_study: MakeStudy, serve: Serve) -> None:
    """Which was slower shows nothing again, and follows."""
    store = make_study()
    address = serve(store)
    with open_page(browser) as page:
        join(page, address, store)
        second = page.context.new_page()
        second.goto(page.url)
        second.get_by_role("button", name="Show the first pair").wait_for()
        page.get_by_role("button", name="Show the first pair").click()
        answer(page)
        page.get_by_role("button", name="Next pair").wait_for()
        second.get_by_role("button", name="Show the first pair").click()
        where(second, "Practice 2 of 2")
        answer(second, "ArrowDown")
        second.get_by_role("button", name="Next pair").wait_for()
    assert [row.number for row in store.rows()] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_on_a_phone_the_pair_is_stacked_at_its_full_size_and_tapped(
    browser: "Browser", make_study: MakeStudy, serve: Serve, dark: bool
) -> None:
    store = make_study()
    address = serve(store)
    with open_page(browser, **PHONE, color_scheme="dark" if dark else "light") as page:
        join(page, address, store)
        page.get_by_role("button", name="Show the first pair").tap()
        page.wait_for_selector(".asking")
        for button in (page.get_by_role("button", name="upper"), page.get_by_role("button", name="lower")):
            box = button.bounding_box()
            assert box and box["width"] >= 220 and box["x"] >= 0 and box["x"] + box["width"] <= 375
            assert box["y"] >= 0 and box["y"] + box["height"] <= 667, "without scrolling"
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        levels = [int(level) for level in re.findall(r"\d+", background)[:3]]
        assert len(set(levels)) == 1 and (levels[0] < 60) == dark, "neutral gray"
        page.get_by_role("button", name="lower").tap()
        page.get_by_role("button", name="Next pair").wait_for()
    (row,) = store.rows()
    assert not row.chose_first and row.shown.layout == "stacked" and row.shown.pixel_ratio == 2


@pytest.mark.slow
@pytest.mark.parametrize(("width", "height"), [(1200, 900), (1200, 600), (375, 667)])
def test_a_second_click_answers_nothing(
    browser: "Browser", make_study: MakeStudy, serve: Serve, width: int, height: int
) -> None:
    store = make_study()
    address = serve(store)
    with open_page(browser, viewport={"width": width, "height": height}) as page:
        join(page, address, store)
        page.get_by_role("button", name="Show the first pair").click()
        answer(page)
        box = page.get_by_role("button", name="Next pair").bounding_box()
        page.get_by_role("button", name="Next pair").dblclick()
        page.wait_for_selector(".asking")
        places = [page.locator(f"#{name}").bounding_box() for name in ("first", "second")]
        assert box and box["y"] + box["height"] <= height, "without scrolling"
        assert all(place and place["y"] + place["height"] <= box["y"] for place in places)
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        answer(page, "ArrowRight")
        page.get_by_role("button", name="Next pair").wait_for()
    assert [row.chose_first for row in store.rows()] == [True, False]


@pytest.mark.slow
def test_no_image_is_marked_until_the_mouse_moves(browser: "Browser", make_study: MakeStudy, serve: Serve) -> None:
    store = make_study(practice=0)
    address = serve(store)
    with open_page(browser) as page:
        join(page, address, store)
        page.get_by_role("button", name="Show the first pair").click()
        for trial in range(2):
            page.wait_for_selector(".asking")
            looks = "place => { const { borderColor: a, backgroundColor: b } = getComputedStyle(place); return a + b; }"
            first, second = page.locator("#first"), page.locator("#second")
            assert first.evaluate(looks) == second.evaluate(looks)
            if trial == 0:
                first.click()  # which moves the mouse there, where it stays
                page.get_by_text("Pair 2 of 3").wait_for()
        page.mouse.move(*[(box := first.bounding_box())["x"] + 40, box["y"] + 40])  # type: ignore[index]
        page.wait_for_selector(".moved")
        assert first.evaluate(looks) != second.evaluate(looks)


@pytest.mark.slow
def test_hostile_names_on_the_results_page(browser: "Browser", make_study: MakeStudy, serve: Serve) -> None:
    store = make_study(names=[*HOSTILE, "e"], algorithms=("one", HOSTILE_ALGORITHM), practice=0, trials=5)
    address = serve(store)
    with open_page(browser) as page:
        join(page, address, store)
        page.get_by_role("button", name="Show the first pair").click()
        for trial in range(5):
            answer(page, KEYS[store.trial(0, trial).fake_first])
        page.get_by_role("heading", name="Thank you").wait_for()
    with open_page(browser, viewport={"width": 375, "height": 667}) as page:
        page.goto(f"{address}/admin?token=wrong")
        assert page.get_by_role("alert").is_visible()
        page.get_by_label("Token").fill("open sesame")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Taken for real").wait_for()
        page.wait_for_load_state()  # with its style
        assert page.url == f"{address}/admin" and page.title() == "Study: results"
        assert page.get_by_text(HOSTILE[0]).first.is_visible() and page.locator("img[src='x']").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        for image in page.locator(".twins img").all():
            image.scroll_into_view_if_needed()
            assert image.evaluate("async image => { await image.decode(); return image.naturalWidth; }") == 32
        with page.expect_download() as download:
            page.get_by_role("link", name="Answers, CSV").click()
        assert download.value.suggested_filename == "answers.csv"
        page.get_by_role("button", name="Leave").click()
        page.get_by_label("Token").wait_for()
