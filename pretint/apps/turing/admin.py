"""The admin page of a study, behind a token: results, and all answers as a download."""

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

    def routes(self) -> list[Route]:
        """Return the routes of the admin pages."""
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
        response = JSONResponse(results_json(self.store))
        response.headers["content-disposition"] = 'attachment; filename="results.json"'
        return response

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
