"""The studio's page, the files that are uploaded to it, and the requests that it sends.

The total size of all uploads is limited, so that no client can fill the memory of this machine.
"""

import asyncio
import io
import itertools
import json
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from pretext.errors import UserError
from pretext.gamut import TEMPERATURE
from pretint.apps.studio.photographs import OpenImages, UnusableReference, ViewSettings
from pretint.apps.studio.worker import Client, SupersededError, TooManyRequestsError, Worker
from pretint.apps.web.responses import read_object, renderer, static_route
from pretint.apps.web.security import Guard, client_of
from pretint.colorization.photographs import Format


@dataclass(eq=False)
class Upload:
    """The bytes of one file that were received so far."""

    client: Client
    data: bytearray | None = field(default_factory=bytearray)
    """None after the upload was dropped."""

    @property
    def size(self) -> int:
        """The number of bytes that are held."""
        return len(self.data or b"")

    def take(self) -> bytearray:
        """Return the complete file. Raises `TooManyRequestsError` if it was dropped."""
        data = self.data
        if data is None:
            raise TooManyRequestsError
        return data


class Uploads:
    """All uploads.

    Args:
        limit: bytes of all uploads together. Above it, the largest upload is dropped: that of the address with the most
            bytes, and there of the session with the most bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._uploads: list[Upload] = []

    @contextmanager
    def receive(self, client: Client) -> Iterator[Upload]:
        """Start an upload, which holds its bytes until the end of this context."""
        upload = Upload(client)
        self._uploads.append(upload)
        try:
            yield upload
        finally:
            self._uploads.remove(upload)
            upload.data = None  # a canceled job may still refer to it

    def append(self, upload: Upload, chunk: bytes) -> None:
        """Add bytes to an upload. Raises `TooManyRequestsError` if it is dropped, now or before."""
        upload.take().extend(chunk)
        while sum(each.size for each in self._uploads) > self.limit:
            by_address: Counter[str] = Counter()
            by_client: Counter[Client] = Counter()
            for each in self._uploads:
                by_address[each.client.address] += each.size
                by_client[each.client] += each.size
            largest = max(
                self._uploads, key=lambda each: (by_address[each.client.address], by_client[each.client], each.size)
            )
            largest.data = None
        upload.take()


T = TypeVar("T")

_HINTS = 200
_COLOR = re.compile(r"#[0-9a-f]{6}")
_FILES = 4  # all uploads that are not opened yet may together have the size of so many largest files
_COOKIE = "pretint-studio"
_LOOK_BYTES = 64 * 1024


def studio_app(table: OpenImages, megabytes: int, names: set[str]) -> ASGIApp:
    """Return the application of the studio.

    Args:
        table: holds the photographs and colors them.
        megabytes: the largest size of a file.
        names: the host names of the page, see `Guard`.
    """
    studio = _Studio(table, megabytes)

    def answer_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"problem": error.detail}, error.status_code)

    def answer_user_error(request: Request, error: Exception) -> Response:
        problem = f"{str(error).removesuffix('.')}."
        return JSONResponse({"problem": problem, "reference": isinstance(error, UnusableReference)}, 422)

    routes = [
        Route("/", studio.page),
        Route("/photographs", studio.open, methods=["POST"]),
        Route("/photographs/{identity}/gray", studio.gray),
        Route("/photographs/{identity}/colored", studio.colored, methods=["POST"]),
        static_route("pretint.apps.web", "pretint.apps.studio"),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Response]] = {
        HTTPException: answer_http_error,
        UserError: answer_user_error,
        SupersededError: lambda request, problem: JSONResponse({"problem": "A later request replaced this one."}, 409),
        TooManyRequestsError: lambda request, problem: JSONResponse(
            {"problem": "Too much waits to be colored; try again in a while."}, 503
        ),
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=studio.life)
    return Guard(app, names, bodies={"/photographs": megabytes * 1_000_000, "/photographs/": _LOOK_BYTES})


class _Studio:
    def __init__(self, table: OpenImages, megabytes: int) -> None:
        self.table, self.megabytes = table, megabytes
        self.render = renderer("pretint.apps.studio")
        self.uploads = Uploads(_FILES * megabytes * 1_000_000)
        self._numbers = itertools.count()

    @asynccontextmanager
    async def life(self, app: Starlette) -> AsyncIterator[None]:
        """Run the thread that computes while the page is served."""
        self.workshop = Worker()
        try:
            yield
        finally:
            self.workshop.close()

    def page(self, request: Request) -> Response:
        page = self.render("studio.html", table=self.table, temperature=TEMPERATURE, megabytes=self.megabytes)
        response = HTMLResponse(page)
        if _COOKIE not in request.cookies:
            response.set_cookie(_COOKIE, secrets.token_urlsafe(12), httponly=True, samesite="strict")
        return response

    async def open(self, request: Request) -> Response:
        """Receive a photograph as the body of the request; only its pixels are used."""
        # It waits for its turn only when it is complete, so that a slow sender does not delay others.
        with self.uploads.receive(_client_of(request)) as upload:
            async for chunk in request.stream():
                self.uploads.append(upload, chunk)
            lane = "open", next(self._numbers)
            identity, photograph = await self._run_job(request, lane, lambda: self.table.lay(bytes(upload.take())))
        width, height = photograph.full.size
        return JSONResponse({"photograph": identity, "width": width, "height": height}, 201)

    async def gray(self, request: Request) -> Response:
        identity = request.path_params["identity"]
        await request.body()  # some clients send one; only after it does the next message report that the client left
        content = await self._run_job(request, ("gray", identity), lambda: _jpeg(self.table.gray(identity)))
        return Response(content, media_type="image/jpeg")

    async def colored(self, request: Request) -> Response:
        identity = request.path_params["identity"]
        sent = await read_object(request)
        hints = sent.get("hints", [])
        if not isinstance(hints, list) or len(hints) > _HINTS or not all(isinstance(hint, dict) for hint in hints):
            raise HTTPException(400, f"Hints are a list of at most {_HINTS}.")
        temperature, saturation = _number(sent, "temperature", 0.01, 10), _number(sent, "saturation", 0, 4)
        points = []
        for hint in hints:
            x, y, radius = _number(hint, "x", 0, 1), _number(hint, "y", 0, 1), _number(hint, "radius", 0, 0.5)
            color = hint.get("color")
            if not isinstance(color, str) or not _COLOR.fullmatch(color):
                raise HTTPException(400, "A hint's color is #rrggbb.")
            points.append((x, y, radius, color))
        reference = sent.get("reference") or ""
        look = ViewSettings(temperature, saturation, tuple(points), reference if isinstance(reference, str) else "")
        full = sent.get("full") is True
        kind: Format = "png" if full and sent.get("format") == "png" else "jpeg"

        def job() -> tuple[bytes, list[str]]:
            return self.table.file(identity, look, kind) if full else (_jpeg(self.table.colored(identity, look)), [])

        content, notes = await self._run_job(request, ("full" if full else "shown", identity), job)
        return Response(content, media_type=f"image/{kind}", headers={"x-notes": json.dumps(notes)})

    async def _run_job(self, request: Request, lane: Hashable, job: Callable[[], T]) -> T:
        """Run a job in its turn, unless its client leaves before, and return its result."""
        waiting = asyncio.wrap_future(self.workshop.submit(_client_of(request), lane, job))

        async def wait_for_disconnect() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        leaving = asyncio.ensure_future(wait_for_disconnect())
        try:
            await asyncio.wait((waiting, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientDisconnect
            return waiting.result()
        finally:
            waiting.cancel()
            leaving.cancel()


def _client_of(request: Request) -> Client:
    return Client(client_of(request.scope), request.cookies.get(_COOKIE, ""))


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _number(sent: dict[str, Any], name: str, least: float, most: float) -> float:
    value = sent.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise HTTPException(400, f"{name} must be a number in [{least:g}, {most:g}].")
    return float(value)
