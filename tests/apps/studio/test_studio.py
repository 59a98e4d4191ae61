"""The studio, over HTTP and in a real browser."""

import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browser import Site, open_page, serve_app
from colorize_files import encode_image, photograph, write_checkpoint
from PIL import Image
from waits import PATIENCE

import pretint.cli
from pretext.errors import UserError
from pretint.apps.studio.pages import studio_app
from pretint.apps.studio.photographs import OpenImages
from pretint.apps.studio.serve import StudioSettings
from pretint.colorization.job import colorize_image
from pretint.colorization.networks import NetworkColorist, open_network
from pretint.colorization.reference import reference_colorist

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FileChooser, FilePayload, Page, Route

PHONE = {"viewport": {"width": 375, "height": 667}, "has_touch": True, "is_mobile": True}
LOOK = {"temperature": 0.38, "saturation": 1}


@pytest.fixture(scope="module")
def painters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NetworkColorist]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "tiny": open_network(write_checkpoint(folder / "tiny.pt"), "cpu", 48),
        "siggraph17": open_network(write_checkpoint(folder / "siggraph17.pt", hints=True), "cpu", 32),
    }


@pytest.fixture
def studio(painters: dict[str, NetworkColorist]) -> Iterator[Site]:
    table = OpenImages(painters["tiny"], "tiny", 1_000_000)
    with serve_app(lambda address: studio_app(table, 1, {"localhost"})) as site:
        yield site


@pytest.fixture
def hinted(painters: dict[str, NetworkColorist]) -> Iterator[Site]:
    table = OpenImages(painters["siggraph17"], "siggraph17", 1_000_000)
    with serve_app(lambda address: studio_app(table, 1, {"localhost"})) as site:
        yield site


def upload(image: Image.Image | bytes, name: str = "mine.png") -> "FilePayload":
    return {
        "name": name,
        "mimeType": "image/png",
        "buffer": image if isinstance(image, bytes) else encode_image(image),
    }


def opened(page: "Page", site: Site, image: Image.Image, name: str = "mine.png") -> None:
    page.goto(site.address)
    page.get_by_label("Choose a photograph").set_input_files(upload(image, name))
    page.locator("#colored").wait_for()


def shown(page: "Page") -> str:
    """The pixels of the colored image on the page."""
    levels = page.locator("#colored").evaluate(
        """async image => {
            for (let tries = 0; tries < 100; tries++) {
                try { await image.decode(); break; }
                catch { await new Promise(done => setTimeout(done, 20)); }  // another took its place meanwhile
            }
            const canvas = document.createElement("canvas");
            canvas.width = image.naturalWidth;
            canvas.height = image.naturalHeight;
            canvas.getContext("2d").drawImage(image, 0, 0);
            return canvas.toDataURL();
        }"""
    )
    return str(levels)


def shows(page: "Page", fits: Callable[[str], bool]) -> str:
    """What is shown, once it fits."""
    deadline = time.monotonic() + PATIENCE
    while not fits(now := shown(page)):
        assert time.monotonic() < deadline, "it is not shown"
        page.wait_for_timeout(50)
    return now


def wait_for(page: "Page", is_true: Callable[[], object], event: str) -> None:
    """Wait for what the browser tells, which it does only while the page waits."""
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} seconds: {event}"
        page.wait_for_timeout(20)


def changed(page: "Page", *before: str) -> str:
    """What is shown, once it is something else."""
    return shows(page, lambda now: now not in before)


def test_what_is_asked_for_is_what_is_painted(studio: Site, painters: dict[str, NetworkColorist]) -> None:
    image = photograph(200, 150)
    laid = studio.ask("/photographs", encode_image(image), content_type="application/octet-stream")
    assert laid.status == 201 and (laid.json["width"], laid.json["height"]) == (200, 150)
    place = f"/photographs/{laid.json['photograph']}"
    full = studio.post(f"{place}/colored", {**LOOK, "full": True, "format": "png"})
    assert full.headers["content-type"] == "image/png" and full.headers["cache-control"] == "no-store"
    expected = colorize_image(painters["tiny"], image)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(full.body))), np.asarray(expected))
    gray = np.asarray(Image.open(io.BytesIO(studio.ask(f"{place}/gray").body)).convert("RGB")).astype(int)
    assert np.ptp(gray, axis=2).max() <= 3


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"saturation": 1},
        {"temperature": 0, "saturation": 1},
        {"temperature": "0.4", "saturation": 1},
        {"temperature": 10**400, "saturation": 1},
        {"temperature": 0.4, "saturation": True},
        {**LOOK, "hints": {}},
        {**LOOK, "hints": [1]},
        {**LOOK, "hints": [{"x": 2, "y": 0, "radius": 0, "color": "#000000"}]},
        {**LOOK, "hints": [{"x": 0, "y": 0, "radius": 0, "color": "red"}]},
        {**LOOK, "hints": [{"x": 0, "y": 0, "radius": 0, "color": "#000000"}] * 201},
    ],
)
def test_what_no_page_of_ours_asks(studio: Site, wrong: object) -> None:
    identity = studio.ask("/photographs", encode_image(photograph())).json["photograph"]
    refused = studio.post(f"/photographs/{identity}/colored", wrong)
    assert refused.status == 400 and "\n" not in refused.json["problem"]
    for text in (b"", b"{", b'{"temperature": NaN, "saturation": 1}'):
        assert studio.ask(f"/photographs/{identity}/colored", text).status == 400


def test_uploads_are_bounded_and_only_ours(studio: Site) -> None:
    too_long = studio.ask("/photographs", b"x" * 1_000_001)
    assert too_long.status == 413 and b"at most 1 MB" in too_long.body
    too_large = studio.ask("/photographs", encode_image(Image.new("L", (1001, 1000))))
    assert too_large.status == 422 and "megapixels" in too_large.json["problem"]
    data = encode_image(photograph())
    assert studio.ask("/photographs", data, origin="http://evil.example").status == 403
    assert studio.ask("/photographs", data, host="evil.example").status == 421
    gone = studio.post("/photographs/unknown/colored", LOOK)
    assert gone.status == 422 and "was closed" in gone.json["problem"]
    assert studio.ask("/photographs/..%2f..%2fetc%2fpasswd/gray").status in (404, 422)
    hints = [{"x": 0, "y": 0, "radius": 0, "color": "#000000"}]
    identity = studio.ask("/photographs", data).json["photograph"]
    assert "no hints" in studio.post(f"/photographs/{identity}/colored", {**LOOK, "hints": hints}).json["problem"]


def test_open_slide_and_download(browser: "Browser", studio: Site, painters: dict[str, NetworkColorist]) -> None:
    image, name = photograph(300, 200), "<img src=x onerror=document.title='owned'>\"'ü漢.png"
    with open_page(browser, accept_downloads=True) as page:
        opened(page, studio, image, name)
        assert page.title() == "Pretint studio" and page.locator("img[src=x]").count() == 0
        assert page.get_by_text("takes no hints").is_visible()
        before = shown(page)
        page.get_by_role("slider", name="Temperature").fill("1.1")
        after = changed(page, before)
        page.get_by_role("button", name="Back to the start").click()
        shows(page, lambda now: now == before != after)
        clip = "image => getComputedStyle(image).clipPath"
        page.get_by_role("slider", name="From gray to color").fill("30")
        assert "70%" in page.locator("#colored").evaluate(clip)
        page.get_by_role("slider", name="Saturation").fill("0.5")
        changed(page, before)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        file = download.value.path()
        assert download.value.suggested_filename.endswith("-colored.png")
        expected = colorize_image(painters["tiny"], image, 0.5)
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(expected)), "at full resolution"


def test_a_reference_image_and_back(browser: "Browser", studio: Site) -> None:
    image, other = photograph(300, 200), photograph(90, 70, seed=5)
    with open_page(browser, accept_downloads=True) as page:
        opened(page, studio, image)
        before = shown(page)
        chosen = page.get_by_label("Choose a reference image")
        chosen.set_input_files(upload(Image.new("L", (30, 20), 90), "gray.png"))
        page.get_by_role("alert").filter(has_text="The reference gray.png: has no color").wait_for()
        assert not page.get_by_role("button", name="Without the reference").is_visible(), "it is not chosen"
        page.get_by_role("slider", name="Saturation").fill("0.5")
        changed(page, before)
        page.get_by_role("slider", name="Saturation").fill("1")
        shows(page, lambda now: now == before)
        chosen.set_input_files(upload(other))
        referred = changed(page, before)
        chosen.set_input_files(upload(Image.new("L", (30, 20), 90), "gray.png"))
        page.get_by_role("alert").filter(has_text="The reference gray.png: has no color").wait_for()
        shows(page, lambda now: now == referred)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").click()
        expected = colorize_image(reference_colorist(other), image)
        assert np.array_equal(np.asarray(Image.open(download.value.path())), np.asarray(expected))
        page.get_by_role("button", name="Without").click()
        shows(page, lambda now: now == before)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"no image at all", "not an image"),
        (b"", "empty file"),
        (encode_image(photograph())[:200], "truncated"),
        (b"x" * 1_000_001, "at most 1 MB"),
        (encode_image(Image.new("1", (2000, 2000))), "has 4 megapixels"),
    ],
)
def test_an_upload_that_is_no_image_is_a_line(browser: "Browser", studio: Site, data: bytes, line: str) -> None:
    with open_page(browser) as page:
        page.goto(studio.address)
        chosen = page.get_by_label("Choose a photograph")
        chosen.set_input_files(upload(data))
        page.get_by_role("alert").filter(has_text=line).wait_for()
        assert page.get_by_text("Drop a photograph here").is_visible()
        chosen.set_input_files(upload(photograph()))  # and the page goes on
        page.locator("#colored").wait_for()
        assert not page.get_by_role("alert").text_content()


def test_by_keyboard_alone(browser: "Browser", studio: Site) -> None:
    with open_page(browser, accept_downloads=True) as page:
        choosers: list[FileChooser] = []
        page.on(
            "filechooser", lambda one: choosers.append(one)
        )  # before the key: the browser is told at once, and answers later
        page.goto(studio.address)
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "file":
                break
        page.keyboard.press("Enter")
        wait_for(page, lambda: choosers, "the file chooser")
        choosers[0].set_files(upload(photograph()))
        page.locator("#colored").wait_for()
        before, reached = shown(page), []
        for _ in range(9):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id"))
            if reached[-1] == "reveal":
                page.keyboard.press("Home")
                assert "100%" in page.locator("#colored").evaluate("image => getComputedStyle(image).clipPath")
            if reached[-1] == "temperature":
                page.keyboard.press("End")
                changed(page, before)
            if reached[-1] == "download":
                with page.expect_download():
                    page.keyboard.press("Enter")
                break
        assert reached == ["reveal", "temperature", "saturation", "reset", "reference", "format", "download"]


def test_hints_by_click_and_by_keys(browser: "Browser", hinted: Site) -> None:
    with open_page(browser) as page:
        sent: list[dict[str, object]] = []
        page.on("request", lambda one: sent.append(json.loads(one.post_data or "")) if "colored" in one.url else None)
        opened(page, hinted, photograph(300, 200))
        assert page.get_by_role("slider", name="Temperature").is_disabled()
        before = shown(page)
        page.get_by_role("radio", name="red").click()
        box = page.locator("#sheet").bounding_box()
        assert box
        page.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
        with_one = changed(page, before)
        (hint,) = sent[-1]["hints"]  # type: ignore[misc]
        assert hint["x"] == pytest.approx(0.25, abs=0.01) and hint["y"] == pytest.approx(0.5, abs=0.01)
        assert hint["color"] == "#b23a3a"
        page.get_by_role("button", name="Add in the middle").focus()
        page.keyboard.press("Enter")
        page.get_by_text("Hint 2", exact=True).wait_for()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Shift+ArrowUp")
        changed(page, with_one)
        moved = sent[-1]["hints"][1]  # type: ignore[index]
        assert (moved["x"], moved["y"]) == pytest.approx((0.51, 0.45))
        page.keyboard.press("Delete")
        assert page.get_by_text("Hint 2", exact=True).count() == 0
        page.get_by_role("button", name="Remove hint 1").click()
        shows(page, lambda now: now == before)


def test_swatches_by_arrow_keys(browser: "Browser", hinted: Site) -> None:
    with open_page(browser) as page:
        opened(page, hinted, photograph())
        sky = page.get_by_role("radio", name="sky")
        assert sky.is_checked()
        sky.focus()
        page.keyboard.press("ArrowRight")
        assert page.get_by_role("radio", name="sea").is_checked() and not sky.is_checked()
        assert page.get_by_label("Another color").input_value() == "#3f7f8c"


def test_hints_do_not_count_while_there_is_a_reference(browser: "Browser", hinted: Site) -> None:
    with open_page(browser) as page:
        opened(page, hinted, photograph(300, 200))
        page.locator("#sheet").click(position={"x": 2, "y": 2})
        mark = page.locator(".mark")
        sheet, box = page.locator("#sheet").bounding_box(), mark.bounding_box()
        assert sheet and box and box["x"] >= sheet["x"] and box["y"] >= sheet["y"], "inside the image"
        page.get_by_label("Choose a reference image").set_input_files(upload(photograph(90, 70, seed=5)))
        page.get_by_text("Hints have no effect").wait_for()
        assert not mark.is_visible() and page.get_by_role("button", name="Add in the middle").is_disabled()
        page.locator("#sheet").click(position={"x": 90, "y": 90})
        page.get_by_role("button", name="Without the reference").click()
        assert mark.is_visible() and mark.count() == 1 and not page.get_by_text("Hints have no effect").is_visible()


def test_a_drag_that_the_system_cancels_ends(browser: "Browser", hinted: Site) -> None:
    with open_page(browser) as page:
        opened(page, hinted, photograph(300, 200))
        page.locator("#sheet").click(position={"x": 100, "y": 100})
        box = page.locator(".mark").bounding_box()
        assert box
        page.mouse.move(box["x"] + 12, box["y"] + 12)
        page.mouse.down()
        page.mouse.move(box["x"] + 62, box["y"] + 12)
        page.locator(".mark").evaluate("mark => mark.releasePointerCapture(1)")  # as a canceled pointer does
        page.mouse.move(box["x"] + 65, box["y"] + 12)
        there = page.locator(".mark").bounding_box()
        page.mouse.move(box["x"] + 70, box["y"] + 12)
        assert there == page.locator(".mark").bounding_box() and there["x"] == pytest.approx(box["x"] + 50, abs=4)  # type: ignore[index]
        page.mouse.up()


def test_of_two_photographs_the_later_one_is_opened(browser: "Browser", studio: Site) -> None:
    with open_page(browser) as page:
        opened(page, studio, photograph())
        held: list[Route] = []

        def hold(route: "Route") -> None:
            if held:
                route.continue_()
            else:
                held.append(route)

        page.route("**/photographs", hold)
        chosen = page.get_by_label("Choose a photograph")
        chosen.set_input_files(upload(photograph(300, 200)))
        wait_for(page, lambda: held, "the request")
        chosen.set_input_files(upload(photograph(90, 60)))
        page.get_by_text("All 90 \u00d7 60 pixels").wait_for()
        laid = studio.ask("/photographs", encode_image(photograph(300, 200)))
        held[0].fulfill(status=201, body=laid.body, content_type="application/json")
        page.get_by_role("slider", name="Saturation").fill("0.5")
        page.wait_for_function("document.getElementById('status').textContent === ''")
        assert page.get_by_text("All 90 \u00d7 60 pixels").is_visible()
        assert page.locator("#colored").evaluate("image => image.naturalWidth") == 90


def test_a_download_says_what_it_could_not_keep(browser: "Browser", studio: Site) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)).save(buffer, "PNG")
    with open_page(browser, accept_downloads=True) as page:
        page.goto(studio.address)
        page.get_by_label("Choose a photograph").set_input_files(upload(buffer.getvalue()))
        page.locator("#colored").wait_for()
        page.get_by_label("Format").select_option("jpeg")
        with page.expect_download():
            page.get_by_role("button", name="Download").click()
        page.get_by_role("status").filter(has_text="the 16 of the photograph were rounded").wait_for()
        assert not page.get_by_role("alert").text_content()


def test_the_image_stays_in_sight(browser: "Browser", hinted: Site) -> None:
    with open_page(browser, viewport={"width": 1200, "height": 600}) as page:
        opened(page, hinted, photograph(300, 200))
        page.get_by_role("button", name="Download").scroll_into_view_if_needed()
        assert page.evaluate("scrollY") > 100
        box = page.locator("#sheet").bounding_box()
        assert box and box["y"] >= 0 and box["y"] + box["height"] <= 600


def test_on_a_phone_nothing_sticks_out(browser: "Browser", hinted: Site) -> None:
    with open_page(browser, **PHONE) as page:
        page.goto(hinted.address)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        assert page.locator(".large").inner_text() == "Choose a photograph", "there is nothing to drop with"
        opened(page, hinted, photograph(200, 400))
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        box = page.locator("#sheet").bounding_box()
        assert box and box["height"] < 400 and box["width"] / box["height"] == pytest.approx(0.5, abs=0.02)
        page.locator("#sheet").tap()
        page.get_by_text("Hint 1", exact=True).wait_for()
        for control in page.locator("button:visible, .button:visible").all():
            if "mark" not in (control.get_attribute("class") or ""):
                size = control.bounding_box()
                assert size and size["height"] >= 35, "large enough for a thumb"


def test_a_stopped_studio_is_a_line_on_the_page(browser: "Browser", painters: dict[str, NetworkColorist]) -> None:
    table = OpenImages(painters["tiny"], "tiny", 1_000_000)
    with open_page(browser) as page:
        with serve_app(lambda address: studio_app(table, 1, {"localhost"})) as site:
            opened(page, site, photograph())
        page.get_by_role("slider", name="Saturation").fill("0.5")
        page.get_by_role("alert").filter(has_text="is it still running?").wait_for()


def test_mistakes_are_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert pretint.cli.main(["studio", *words]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} on 127.0.0.1" in refused(str(tmp_path / "none"), "--port", port)
    assert "none" in refused(str(tmp_path / "none"), "--port", "0")
    assert "megapixels" in refused("x", "--megapixels", "1000")
    assert "host nowhere.invalid" in refused("x", "--host", "nowhere.invalid")
    with pytest.raises(UserError, match="megabytes"):
        StudioSettings(megabytes=0)
