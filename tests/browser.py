"""A real server and a real browser, for the tests of pages."""

import http.client
import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pytest
from waits import PATIENCE

from pretint.apps.web.server import PageServer
from pretint.apps.web.sockets import address_of, open_listener

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Site:
    """A served application; paths go out as they are written, so that a test can send what no browser would."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """GET, or POST of a body; header names are written with underscores."""
        connection = http.client.HTTPConnection(self.address.removeprefix("http://"), timeout=PATIENCE)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("GET" if body is None else "POST", path, body, named)
            response = connection.getresponse()
            got = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, got, response.read())
        finally:
            connection.close()

    def post(self, path: str, sent: Any) -> Answer:
        """JSON, as a page of ours sends it."""
        return self.ask(path, json.dumps(sent).encode(), content_type="application/json", origin=self.address)


@contextmanager
def serve_app(make: Any, behind_proxy: bool = False) -> Iterator[Site]:
    """Serve ``make(address)``, in a thread, on a free port."""
    listener = open_listener("127.0.0.1", 0)
    site = Site(address_of(listener))
    server = PageServer(make(site.address), behind_proxy)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield site
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        _missing("playwright")
    executable = shutil.which("chromium") or _missing("chromium")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield launched
        launched.close()


@contextmanager
def open_page(browser: "Browser", **context: Any) -> Iterator["Page"]:
    """A page in a context of its own, in which no script may fail, and nothing may be refused or pop up."""
    opened = browser.new_context(**context)
    opened.set_default_timeout(1000 * PATIENCE)
    page = opened.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append(dialog.message))
    page.on("console", lambda line: troubles.append(line.text) if "Content Security" in line.text else None)
    yield page
    opened.close()
    assert not troubles, troubles


def measure_layout(browser: "Browser", file: Path, width: int) -> tuple[int, list[str]]:
    """How wide a page is in a window of some width, and what it asked for besides itself."""
    requests: list[str] = []
    with open_page(browser, viewport={"width": width, "height": 600}) as page:
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        shown = int(page.evaluate("document.documentElement.scrollWidth"))
    return shown, [address for address in requests if not address.startswith("data:") and address != file.as_uri()]


def _missing(what: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI needs {what}")
    pytest.skip(f"needs {what}")
