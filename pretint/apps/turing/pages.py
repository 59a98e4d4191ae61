"""The pages of a study, for participants and for its owner; and how many requests each of them may send.

A whole class behind one address may take part at the same time, so the secret in their link identifies participants.
Each address also has limits: for requests from clients that are not participants (so these cannot block participants at
the same address), for new participants, and for all requests together. The static files of the pages have no limit:
serving one costs no more than refusing it, and the request does not identify the participant.
"""

import hashlib
import hmac
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

from pretint.apps.turing.results import answers_csv, results_json, summary
from pretint.apps.turing.store import REAL, Participant, ShownPair, Store
from pretint.apps.web.responses import read_object, renderer, static_route
from pretint.apps.web.security import Buckets, Guard, RateLimit, client_of

AHEAD = 2
"""The number of pairs after the next one that a browser may fetch ahead."""

_log = logging.getLogger(__name__)
_VISIONS = ("yes", "unsure", "no")
_LAYOUTS = ("beside", "stacked")
_LARGEST = {"frames": 1e7, "side_px": 1e5, "pixel_ratio": 100.0} | dict.fromkeys(("shown_ms", "longest_frame_ms"), 1e9)
_LARGEST["response_ms"] = 1e10
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
        is_joining = first == "join" and scope["method"] == "POST"
        return self._strangers.wait(address) or (self._joins.wait(address) if is_joining else 0)

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
        Route("/admin", admin.results),
        Route("/admin", admin.enter, methods=["POST"]),
        Route("/admin/leave", admin.leave, methods=["POST"]),
        Route("/admin/answers.csv", admin.answers_csv),
        Route("/admin/results.json", admin.results_json),
        Route("/admin/image/{pair:count}/{which}", admin.image),
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
        first = self.facts.practice + self.facts.trials if who.trial is None else who.trial
        last = min(first + AHEAD, self.facts.practice + self.facts.trials - 1)
        if place not in ("first", "second") or not first + who.seen <= trial <= last:
            raise HTTPException(404, "No such image, or not now.")
        pair = self.store.trial(who.number, trial)
        algorithm = who.algorithm if pair.fake_first == (place == "first") else REAL
        return Response(self.store.image(pair.pair, algorithm), media_type="image/png")

    async def seen(self, request: Request) -> Response:
        identity, sent = request.path_params["identity"], await _read_json(request)

        def record() -> Response:
            show = self.store.see(self._known(identity).number, _parse_trial(sent))
            return JSONResponse({"show": show, "state": self._state(self._known(identity))})

        return await run_in_threadpool(record)

    async def answer(self, request: Request) -> Response:
        return await run_in_threadpool(self._answer, request.path_params["identity"], await _read_json(request))

    def _answer(self, identity: str, sent: dict[str, Any]) -> Response:
        """Save an answer and report it. If there is an answer already, the report does not depend on the new one."""
        who, number = self._known(identity), _parse_trial(sent)
        chosen = sent.get("chosen")
        if chosen not in ("first", "second"):
            raise HTTPException(400, "An answer is first or second.")
        report: dict[str, Any] = {}  # of the browser on the trial; impossible values are left out
        for name, largest in _LARGEST.items():
            value = sent.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= largest:
                report[name] = int(value) if name == "frames" else float(value)
        if isinstance(sent.get("hidden"), bool):
            report["hidden"] = sent["hidden"]
        if sent.get("layout") in _LAYOUTS:
            report["layout"] = sent["layout"]
        is_saved = self.store.answer(who.number, number, chosen == "first", ShownPair(**report))
        result: dict[str, Any] = {"kept": is_saved, "state": self._state(self._known(identity))}
        if is_saved and number < self.facts.practice:
            result["fake"] = "first" if self.store.trial(who.number, number).fake_first else "second"
        return JSONResponse(result)

    def _state(self, who: Participant) -> dict[str, Any]:
        state = {name: getattr(self.facts, name) for name in ("practice", "trials", "seconds")}
        state |= {"trial": who.trial, "seen": who.seen, "ahead": AHEAD}
        if who.trial is None:
            state["fooled"] = self.store.fooled(who.number)
        return state

    def _require_invitation(self, request: Request) -> None:
        token = request.path_params["token"]
        if not secrets.compare_digest(token.encode("utf-8", "replace"), self.facts.token.encode()):
            raise HTTPException(404, "This link leads nowhere: it may have been cut off on its way to you.")

    def _who(self, request: Request) -> Participant:
        return self._known(request.path_params["identity"])

    def _known(self, identity: str) -> Participant:
        who = self.store.participant(identity)
        if who is None:
            raise HTTPException(404, "This link leads nowhere: it may have been cut off on its way to you.")
        self.limits.admit(identity)
        return who


class Admin:
    """The pages under /admin, behind a token: results, and all answers as a download.

    Args:
        store: the study.
        token: the token that opens them.
        link: the link by which participants join.
        secure: whether the page is reached over HTTPS only.
    """

    def __init__(self, store: Store, token: str, link: str, secure: bool) -> None:
        self.store, self.facts, self.link, self.secure = store, store.facts, link, secure
        self.render = renderer("pretint.apps.turing")
        self._token = _digest(token)
        self._cookie = f"pretint-study-{hashlib.sha256(store.facts.token.encode()).hexdigest()[:8]}"
        self._pass = secrets.token_urlsafe(32)  # the cookie of a browser, in place of the token

    def results(self, request: Request) -> Response:
        if "token" in request.query_params:
            return self._let_in(request, request.query_params["token"])
        if not self._has_cookie(request):
            return HTMLResponse(self.render("enter.html", wrong=False))
        return HTMLResponse(self.render("results.html", link=self.link, facts=self.facts, **summary(self.store)))

    async def enter(self, request: Request) -> Response:
        form = parse_qs((await request.body()).decode("utf-8", "replace"))
        return self._let_in(request, form.get("token", [""])[0].strip())

    def leave(self, request: Request) -> Response:
        response = RedirectResponse("/admin", 303)
        response.delete_cookie(self._cookie, path="/admin")
        return response

    def answers_csv(self, request: Request) -> Response:
        self._require_cookie(request)
        attachment = {"content-disposition": 'attachment; filename="answers.csv"'}
        return Response(answers_csv(self.store), media_type="text/csv; charset=utf-8", headers=attachment)

    def results_json(self, request: Request) -> Response:
        self._require_cookie(request)
        attachment = {"content-disposition": 'attachment; filename="results.json"'}
        return JSONResponse(results_json(self.store), headers=attachment)

    def image(self, request: Request) -> Response:
        self._require_cookie(request)
        which = request.path_params["which"]
        algorithms = {"real": REAL, **{str(index): index for index in range(len(self.facts.names))}}
        image = self.store.image(request.path_params["pair"], algorithms[which]) if which in algorithms else None
        if image is None:
            raise HTTPException(404, "No such image.")
        return Response(image, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    def _let_in(self, request: Request, token: str) -> Response:
        # Attempts are not limited: a long token cannot be guessed, and a limit would let a stranger lock the owner out.
        if not hmac.compare_digest(_digest(token), self._token):
            return HTMLResponse(self.render("enter.html", wrong=True), 403)
        response = RedirectResponse("/admin", 303)  # the address no longer contains the token
        response.set_cookie(self._cookie, self._pass, path="/admin", httponly=True, samesite="lax", secure=self.secure)
        return response

    def is_owner(self, scope: Scope) -> bool:
        """Whether a request comes from the owner: it has the cookie, or goes to the page that takes the token."""
        return scope["path"] == "/admin" or self._has_cookie(Request(scope))

    def _has_cookie(self, request: Request) -> bool:
        return hmac.compare_digest(_digest(request.cookies.get(self._cookie, "")), _digest(self._pass))

    def _require_cookie(self, request: Request) -> None:
        if not self._has_cookie(request):
            raise HTTPException(403, "This needs the token of the admin page.")


def _digest(secret: str) -> bytes:
    """Hash a secret to a fixed length, for a comparison in constant time."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


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
