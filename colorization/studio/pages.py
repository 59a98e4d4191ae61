"""The studio's page and what it asks for."""

import asyncio
import io
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from colorization.pages.guarding import Guard, dropped
from colorization.pages.serving import renderer, sent_object, static_route
from colorization.photographs import Format
from colorization.studio.photographs import Look, Table, UnusableReference
from colorization.studio.workshop import Crowded, Superseded, Workshop
from pretext.errors import UserError
from pretext.gamut import TEMPERATURE

T = TypeVar("T")

_HINTS = 200
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_AT_ONCE = 2  # uploads that are held in memory, until they are opened
_WAITING = 16  # uploads, with those
_LOOK_BYTES = 64 * 1024


def studio_app(table: Table, megabytes: int, names: set[str]) -> ASGIApp:
    """The application.

    Args:
        table: colours and holds the photographs.
        megabytes: that a file may have.
        names: host names the page goes by, see `Guard`.
    """
    studio = _Studio(table, megabytes)
    routes = [
        Route("/", studio.page),
        Route("/photographs", studio.open, methods=["POST"]),
        Route("/photographs/{identity}/gray", studio.gray),
        Route("/photographs/{identity}/coloured", studio.coloured, methods=["POST"]),
        static_route("colorization.pages", "colorization.studio"),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Response]] = {
        HTTPException: _problem,
        UserError: _mistake,
        Superseded: lambda request, problem: JSONResponse({"problem": "A later request took its place."}, 409),
        Crowded: lambda request, problem: JSONResponse(
            {"problem": "Too much waits to be coloured; try again in a while."}, 503
        ),
    }
    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=studio.life)
    bodies = {"/photographs": megabytes * 1_000_000, "/photographs/": _LOOK_BYTES}
    return Guard(app, names, bodies=bodies)


class _Studio:
    def __init__(self, table: Table, megabytes: int) -> None:
        self.table, self.megabytes = table, megabytes
        self.render = renderer("colorization.studio")
        self._numbers = itertools.count()
        self._uploads = 0  # that have a turn or wait for one

    @asynccontextmanager
    async def life(self, app: Starlette) -> AsyncIterator[None]:
        """While the page is served, one thread computes."""
        self.workshop, self.turns = Workshop(), asyncio.Semaphore(_AT_ONCE)
        try:
            yield
        finally:
            await asyncio.to_thread(self.workshop.close)

    def page(self, request: Request) -> Response:
        colourist = self.table.colourist
        return HTMLResponse(
            self.render(
                "studio.html",
                model=self.table.name,
                takes_hints=colourist.takes_hints,
                has_distribution=colourist.has_distribution,
                temperature=TEMPERATURE,
                megabytes=self.megabytes,
                megapixels=self.table.pixels // 1_000_000,
            )
        )

    async def open(self, request: Request) -> Response:
        """A photograph comes in, as the body itself; nothing of it is believed but its pixels."""
        if self._uploads >= _WAITING:
            await dropped(request.receive)
            raise Crowded
        self._uploads += 1
        try:
            async with self.turns:
                data = await request.body()
                identity, photograph = await self._done(("open", next(self._numbers)), lambda: self.table.lay(data))
        finally:
            self._uploads -= 1
        width, height = photograph.full.size
        return JSONResponse({"photograph": identity, "width": width, "height": height}, 201)

    async def gray(self, request: Request) -> Response:
        identity = request.path_params["identity"]

        def job() -> bytes:
            return _jpeg(self.table.gray(identity))

        return Response(await self._done(("gray", identity), job), media_type="image/jpeg")

    async def coloured(self, request: Request) -> Response:
        identity = request.path_params["identity"]
        sent = await sent_object(request)
        look, full = _look(sent), sent.get("full") is True
        kind: Format = "png" if full and sent.get("format") == "png" else "jpeg"

        def job() -> tuple[bytes, list[str]]:
            return self.table.file(identity, look, kind) if full else (_jpeg(self.table.coloured(identity, look)), [])

        content, notes = await self._done(("full" if full else "shown", identity), job)
        return Response(content, media_type=f"image/{kind}", headers={"x-notes": json.dumps(notes)})

    async def _done(self, lane: Hashable, job: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self.workshop.ask(lane, job))


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def _problem(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    return JSONResponse({"problem": problem.detail}, problem.status_code)


def _mistake(request: Request, problem: Exception) -> Response:
    text = str(problem)
    said = {"problem": text if text.endswith(".") else f"{text}.", "reference": isinstance(problem, UnusableReference)}
    return JSONResponse(said, 422)


def _look(sent: dict[str, Any]) -> Look:
    hints = sent.get("hints", [])
    if not isinstance(hints, list) or len(hints) > _HINTS or not all(isinstance(hint, dict) for hint in hints):
        raise HTTPException(400, f"Hints are a list of at most {_HINTS}.")
    reference = sent.get("reference") or ""
    return Look(
        temperature=_number(sent, "temperature", 0.01, 10),
        saturation=_number(sent, "saturation", 0, 4),
        hints=tuple(
            (_number(hint, "x", 0, 1), _number(hint, "y", 0, 1), _number(hint, "radius", 0, 0.5), _colour(hint))
            for hint in hints
        ),
        reference=reference if isinstance(reference, str) else "",
    )


def _number(sent: dict[str, Any], name: str, least: float, most: float) -> float:
    value = sent.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise HTTPException(400, f"{name} must be a number in [{least:g}, {most:g}].")
    return float(value)


def _colour(hint: dict[str, Any]) -> str:
    colour = hint.get("colour")
    if not isinstance(colour, str) or not _COLOUR.fullmatch(colour):
        raise HTTPException(400, "A hint's colour is #rrggbb.")
    return colour
