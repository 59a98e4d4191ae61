"""The admin page of a study, behind a token: results, and all answers to take away."""

import hashlib
import hmac
import secrets
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from pretint.apps.turing.results import answers_csv, results_json, summary
from pretint.apps.turing.store import REAL, Store
from pretint.apps.web.responses import renderer


class Admin:
    """The pages under /admin.

    Args:
        store: the study.
        token: that opens them.
        link: by which participants join.
        secure: whether the page is reached over HTTPS only.
    """

    def __init__(self, store: Store, token: str, link: str, secure: bool) -> None:
        self.store, self.facts, self.link, self.secure = store, store.facts, link, secure
        self.render = renderer("pretint.apps.turing")
        self._token = _digest(token)
        self._cookie = f"pretint-study-{hashlib.sha256(store.facts.token.encode()).hexdigest()[:8]}"
        self._pass = secrets.token_urlsafe(32)  # what a browser keeps in place of the token

    def routes(self) -> list[Route]:
        """Of the application."""
        return [
            Route("/admin", self.results),
            Route("/admin", self.enter, methods=["POST"]),
            Route("/admin/leave", self.leave, methods=["POST"]),
            Route("/admin/answers.csv", self.answers_csv),
            Route("/admin/results.json", self.results_json),
            Route("/admin/image/{pair:count}/{which}", self.image),
        ]

    def results(self, request: Request) -> Response:
        if "token" in request.query_params:
            return self._let_in(request, request.query_params["token"])
        if not self._is_in(request):
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
        self._must_be_in(request)
        return _attached(answers_csv(self.store), "answers.csv", "text/csv; charset=utf-8")

    def results_json(self, request: Request) -> Response:
        self._must_be_in(request)
        response = JSONResponse(results_json(self.store))
        response.headers["content-disposition"] = 'attachment; filename="results.json"'
        return response

    def image(self, request: Request) -> Response:
        self._must_be_in(request)
        which = request.path_params["which"]
        known = {"real": REAL, **{str(index): index for index in range(len(self.facts.names))}}
        found = self.store.image(request.path_params["pair"], known[which]) if which in known else None
        if found is None:
            raise HTTPException(404, "No such image.")
        return Response(found, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    def _let_in(self, request: Request, token: str) -> Response:
        # Tries are not limited: a long token is not guessed, and whoever uses up a limit would lock the owner out.
        if not hmac.compare_digest(_digest(token), self._token):
            return HTMLResponse(self.render("enter.html", wrong=True), 403)
        response = RedirectResponse("/admin", 303)  # an address without the token
        response.set_cookie(self._cookie, self._pass, path="/admin", httponly=True, samesite="lax", secure=self.secure)
        return response

    def is_owner(self, scope: Scope) -> bool:
        """Whether a request comes from the owner: it has the cookie, or goes to where the token is given."""
        return scope["path"] == "/admin" or self._is_in(Request(scope))

    def _is_in(self, request: Request) -> bool:
        return hmac.compare_digest(_digest(request.cookies.get(self._cookie, "")), _digest(self._pass))

    def _must_be_in(self, request: Request) -> None:
        if not self._is_in(request):
            raise HTTPException(403, "This needs the token of the admin page.")


def _attached(content: str, name: str, kind: str) -> Response:
    return Response(content, media_type=kind, headers={"content-disposition": f'attachment; filename="{name}"'})


def _digest(secret: str) -> bytes:
    """Of one length, whatever the secret's, to be compared in constant time."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
