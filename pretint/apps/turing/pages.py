"""The pages of a study: joining it and taking part; and how many requests each participant and address may send.

A whole class behind one address may take part at the same time, so the secret in their link identifies participants.
Each address also has limits: for requests from clients that are not participants (so these cannot block participants at
the same address), for new participants, and for all requests together. The static files of the pages have no limit:
serving one costs no more than refusing it, and the request does not identify the participant.
"""

import logging
import secrets
import sqlite3
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from pretint.apps.turing.admin import Admin
from pretint.apps.turing.store import REAL, Participant, ShownPair, Store
from pretint.apps.web.responses import read_object, renderer, static_route
from pretint.apps.web.security import Buckets, Guard, RateLimit, client_of

AHEAD = 2
"""The number of pairs after the next one that a browser may fetch ahead."""

_log = logging.getLogger(__name__)
_VISIONS = ("yes", "unsure", "no")
_LAYOUTS = ("beside", "stacked")
_PARTICIPANT = RateLimit(200, 10)  # a reload takes up to 6 requests, a trial 4
_STRANGERS = RateLimit(3000, 60)  # of one address: 2 for each new participant, and all wrong links
_JOINS = RateLimit(400, 0.2)  # of one address: each takes up to 4 kB of the study's file permanently
_ADDRESS = RateLimit(10_000, 600)


class StudyLimits:
    """Limits for ``Guard``.

    Args:
        is_owner: whether a request is from the owner, who is never refused.
    """

    def __init__(self, is_owner: Callable[[Scope], bool]) -> None:
        self._is_owner = is_owner
        self._participants, self._strangers = Buckets(_PARTICIPANT), Buckets(_STRANGERS)
        self._joins, self._addresses = Buckets(_JOINS), Buckets(_ADDRESS)

    def __call__(self, scope: Scope) -> float:
        """Return seconds until the request may pass."""
        first, _, rest = scope["path"].lstrip("/").partition("/")
        if first == "static" or self._is_owner(scope):
            return 0
        address = client_of(scope)
        identity = rest.partition("/")[0] if first == "go" else ""
        if identity in self._participants:
            return self._participants.wait(identity) or self._addresses.wait(address)
        wait = self._strangers.wait(address)
        if not wait and first == "join" and scope["method"] == "POST":
            wait = self._joins.wait(address)
        return wait

    def admit(self, identity: str) -> None:
        """Count this identity as a participant from now on, because the study's file has it."""
        self._participants.add(identity)


def study_app(store: Store, token: str, address: str, names: set[str]) -> ASGIApp:
    """Return the application of an open study.

    Args:
        store: the study.
        token: the token of the admin page.
        address: the URL of the page, without a path.
        names: the host names of the page, see `Guard`.
    """
    admin = Admin(store, token, f"{address}/join/{store.facts.token}", secure=address.startswith("https:"))
    limits = StudyLimits(admin.is_owner)
    part = _Part(store, limits)
    routes = [
        Route("/", part.nowhere),
        Route("/join/{token}", part.welcome),
        Route("/join/{token}", part.join, methods=["POST"]),
        Route("/go/{identity}", part.page),
        Route("/go/{identity}/state", part.state),
        Route("/go/{identity}/image/{trial:count}/{place}", part.image),
        Route("/go/{identity}/seen", part.seen, methods=["POST"]),
        Route("/go/{identity}/answer", part.answer, methods=["POST"]),
        *admin.routes(),
        static_route("pretint.apps.web", "pretint.apps.turing"),
    ]
    handlers: dict[Any, Callable[[Request, Exception], Response]] = {
        HTTPException: part.problem,
        sqlite3.Error: part.unreadable,
        zlib.error: part.unreadable,
    }

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        yield
        # Threads that still wait for another program's lock, one after the other, cannot be canceled.
        store.refuse_writes()

    app = Starlette(routes=routes, exception_handlers=handlers, lifespan=life)
    return Guard(app, names, limit=limits, public=address)


class _Part:
    """The pages for participants."""

    def __init__(self, store: Store, limits: StudyLimits) -> None:
        self.store, self.facts, self.limits = store, store.facts, limits
        self.render = renderer("pretint.apps.turing")

    def problem(self, request: Request, problem: Exception) -> Response:
        """Answer an error: a page for people, JSON for the script of a page."""
        assert isinstance(problem, HTTPException)
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse({"problem": problem.detail}, problem.status_code)
        page = self.render("problem.html", status=problem.status_code, detail=problem.detail)
        return HTMLResponse(page, problem.status_code)

    def unreadable(self, request: Request, problem: Exception) -> Response:
        """Answer that the page may try again: the file is damaged or locked by another program, or the disk is full."""
        _log.error("%s: %s", self.store.file, problem)
        return self.problem(request, HTTPException(503, "The study cannot be read or written at the moment."))

    def nowhere(self, request: Request) -> Response:
        raise HTTPException(404, "This is a study. To take part, use the link in your invitation.")

    def welcome(self, request: Request) -> Response:
        self._require_invitation(request)
        return HTMLResponse(self.render("join.html", facts=self.facts, token=self.facts.token))

    async def join(self, request: Request) -> Response:
        self._require_invitation(request)
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        vision = form.get("vision", [""])[0]
        if vision not in _VISIONS:
            raise HTTPException(400, "Please answer whether you see colors normally; then continue.")
        identity = secrets.token_urlsafe(16)
        await run_in_threadpool(self.store.join, identity, vision)
        self.limits.admit(identity)
        return RedirectResponse(f"/go/{identity}", 303)

    def page(self, request: Request) -> Response:
        who = self._who(request)
        return HTMLResponse(self.render("take-part.html", facts=self.facts, finished=who.trial is None))

    def state(self, request: Request) -> Response:
        return JSONResponse(self._state(self._who(request)))

    def image(self, request: Request) -> Response:
        """Return one image of a pair that was not shown yet: the next pair, or one that is fetched ahead."""
        who = self._who(request)
        trial, place = request.path_params["trial"], request.path_params["place"]
        first = -1 if who.trial is None else who.trial + who.seen
        if who.trial is None or place not in ("first", "second") or not first <= trial <= who.trial + AHEAD:
            raise HTTPException(404, "No such image, or not now.")
        if trial >= self.facts.practice + self.facts.trials:
            raise HTTPException(404, "No such image.")
        pair = self.store.trial(who.number, trial)
        algorithm = who.algorithm if pair.fake_first == (place == "first") else REAL
        return Response(self.store.image(pair.pair, algorithm), media_type="image/png")

    async def seen(self, request: Request) -> Response:
        identity, sent = self._identity(request), await _read_json(request)

        def record() -> Response:
            show = self.store.see(self._known(identity).number, _parse_trial(sent))
            return JSONResponse({"show": show, "state": self._state(self._known(identity))})

        return await run_in_threadpool(record)

    async def answer(self, request: Request) -> Response:
        return await run_in_threadpool(self._answer, self._identity(request), await _read_json(request))

    def _answer(self, identity: str, sent: dict[str, Any]) -> Response:
        """Save an answer and report it. If there is an answer already, the report does not depend on the new one."""
        who, number = self._known(identity), _parse_trial(sent)
        chosen = sent.get("chosen")
        if chosen not in ("first", "second"):
            raise HTTPException(400, "An answer is first or second.")

        def measured(name: str, most: float) -> float | None:
            value = sent.get(name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                return None
            return float(value) if 0 <= value <= most else None

        # A browser's report on the trial; impossible values become None.
        frames, hidden, layout = measured("frames", 1e7), sent.get("hidden"), sent.get("layout")
        shown = ShownPair(
            shown_ms=measured("shown_ms", 1e9),
            frames=None if frames is None else int(frames),
            longest_frame_ms=measured("longest_frame_ms", 1e9),
            hidden=hidden if isinstance(hidden, bool) else None,
            response_ms=measured("response_ms", 1e10),
            layout=layout if layout in _LAYOUTS else None,
            side_px=measured("side_px", 1e5),
            pixel_ratio=measured("pixel_ratio", 100),
        )
        is_saved = self.store.answer(who.number, number, chosen == "first", shown)
        result: dict[str, Any] = {"kept": is_saved, "state": self._state(self._known(identity))}
        if is_saved and number < self.facts.practice:
            result["fake"] = "first" if self.store.trial(who.number, number).fake_first else "second"
        return JSONResponse(result)

    def _state(self, who: Participant) -> dict[str, Any]:
        state = {
            "trial": who.trial,
            "seen": who.seen,
            "practice": self.facts.practice,
            "trials": self.facts.trials,
            "seconds": self.facts.seconds,
            "ahead": AHEAD,
        }
        if who.trial is None:
            state["fooled"] = self.store.fooled(who.number)
        return state

    def _require_invitation(self, request: Request) -> None:
        token = request.path_params["token"]
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self.facts.token.encode()):
            raise HTTPException(404, "This link leads nowhere: it may have been cut off on its way to you.")

    def _identity(self, request: Request) -> str:
        return str(request.path_params["identity"])

    def _who(self, request: Request) -> Participant:
        return self._known(self._identity(request))

    def _known(self, identity: str) -> Participant:
        who = self.store.participant(identity)
        if who is None:
            raise HTTPException(404, "This link leads nowhere: it may have been cut off on its way to you.")
        self.limits.admit(identity)
        return who


async def _read_json(request: Request) -> dict[str, Any]:
    """Read the JSON object in a request."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise HTTPException(415, "Send JSON.")
    return await read_object(request)


def _parse_trial(sent: dict[str, Any]) -> int:
    number = sent.get("trial")
    if type(number) is not int or not 0 <= number < 2**31:
        raise HTTPException(400, "A trial has a number.")
    return number
