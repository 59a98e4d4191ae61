"""The guard between a page and the network: bounds on bodies and rates, checks of host and origin, headers.

It is plain ASGI, so that no part of a request is read before it is bounded.
"""

import asyncio
import contextlib
import ipaddress
import math
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    # Not no-referrer: with it browsers send "Origin: null" with our own forms.
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "x-robots-tag": "noindex, nofollow",
}
"""The headers of every response. Only our files run as scripts: injected text stays text."""

SMALL_BODY = 16 * 1024
"""The default limit of a request's body, in bytes."""

_CLIENTS = 4096  # the number of clients whose rates are remembered
_PATIENCE = 30.0  # seconds that a body may pause, and that it has in addition to those of _SLOWEST
_SLOWEST = 25_000.0  # bytes of a body a second: a photograph of 20 MB comes even from a phone far from its router
_LONGEST = 900.0  # seconds for any body
_DROPPED = 8 << 20  # bytes of a too large body that are read nevertheless
_SAFE = ("GET", "HEAD", "OPTIONS")


class RateLimit(NamedTuple):
    """A token bucket: ``burst`` requests at once, and then ``per_second`` requests a second."""

    burst: float
    per_second: float


class Buckets:
    """One bucket for each client. Of too many clients, the least recent are forgotten."""

    def __init__(self, rate: RateLimit, now: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._now = rate, now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __contains__(self, client: str) -> bool:
        return client in self._left

    def add(self, client: str) -> None:
        """Add a client who is not known yet."""
        self._left.setdefault(client, (self.rate.burst, self._now()))
        self._forget()

    def _forget(self) -> None:
        while len(self._left) > _CLIENTS:
            self._left.popitem(last=False)

    def wait(self, client: str) -> float:
        """Return seconds until a request of that client may pass; 0 if it may now, and then count it."""
        now = self._now()
        left, since = self._left.pop(client, (self.rate.burst, now))
        left = min(self.rate.burst, left + (now - since) * self.rate.per_second)
        passes = left >= 1
        self._left[client] = (left - passes, now)
        self._forget()
        return 0 if passes else (1 - left) / self.rate.per_second


def limit_addresses(rate: RateLimit) -> Callable[[Scope], float]:
    """Return a limit for ``Guard``: each address may send requests at this rate; see ``network``."""
    buckets = Buckets(rate)
    return lambda scope: buckets.wait(client_of(scope))


class Guard:
    """A wrapper of an application; see the module.

    Args:
        app: the application.
        names: the host names of the page. Addresses in numbers are always accepted. Any other name would be a foreign
            site's that points at this machine (DNS rebinding).
        bodies: the limit of a request's body in bytes, by the beginning of its path; ``SMALL_BODY`` elsewhere.
        limit: returns the seconds that a request must wait, by its scope; 0 lets it pass, and counts it. By default
            each address may send 600 requests at once, and then 60 a second.
        public: the address of the page in browsers, if a proxy requests it by another one.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: Iterable[str],
        bodies: dict[str, int] | None = None,
        limit: Callable[[Scope], float] | None = None,
        public: str = "",
    ) -> None:
        self.app, self.public = app, public
        self.names = {name.lower() for name in names}
        self.bodies = bodies or {}
        self.limit = limit or limit_addresses(RateLimit(600, 60))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # web sockets are not used here
            await send({"type": "websocket.close", "code": 1003})
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        # A client that leaves in the middle of a body is no error; and the server cancels requests when it stops.
        with contextlib.suppress(ClientDisconnect, asyncio.CancelledError):
            await self._answer(scope, receive, send_with_headers)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        prefixes = [prefix for prefix in self.bodies if scope["path"].startswith(prefix)]
        limit = self.bodies[max(prefixes, key=len)] if prefixes else SMALL_BODY
        too_large = f"Too large: at most {f'{limit / 1e6:.0f} MB' if limit >= 1e6 else f'{limit:,} bytes'}.\n"
        try:
            declared = int(headers.get("content-length", "0"))
        except ValueError:
            declared = 0
        refusal: PlainTextResponse | None = None
        if not self.is_known(host):
            refusal = PlainTextResponse("This page does not have that host name.\n", 421)
        elif scope["method"] not in _SAFE and not self._is_same_site(headers, host):
            refusal = PlainTextResponse("This came from another site.\n", 403)
        elif wait := self.limit(scope):
            after = {"retry-after": str(math.ceil(wait))}
            refusal = PlainTextResponse("Too many requests; try again in a while.\n", 429, headers=after)
        elif declared > limit:
            await drain(receive)
            refusal = PlainTextResponse(too_large, 413, headers={"connection": "close"})
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        seen, more, began = 0, True, 0.0

        async def receive_bounded() -> Message:
            nonlocal seen, more, began
            if not more:
                return await receive()  # this waits until the client is gone
            now = time.monotonic()
            began = began or now  # the first read: a client that waits for its turn sends nothing
            left = min(_PATIENCE, began + min(_LONGEST, _PATIENCE + seen / _SLOWEST) - now)
            try:
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                raise HTTPException(408, "The rest of this request did not arrive.\n") from None
            more = message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, too_large)  # Starlette responds with it, in any handler
            return message

        await self.app(scope, receive_bounded, send)

    def _is_same_site(self, headers: Headers, host: str) -> bool:
        """Whether a request that changes something comes from our own page, or from no browser."""
        if site := headers.get("sec-fetch-site"):
            return site in ("same-origin", "none")
        origin = headers.get("origin")  # browsers send only this if the page is not served over HTTPS
        if origin is None or (self.public and origin.lower() == self.public.lower().rstrip("/")):
            return True
        return urlsplit(origin).netloc.lower() == host.lower()

    def is_known(self, host: str) -> bool:
        """Whether a Host header names this page."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self.names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def names_here(host: str, public: str = "") -> set[str]:
    """Return the names of this machine, the name that it is bound to, and the name of a public address."""
    machine = socket.gethostname()
    names = {"localhost", host, machine, f"{machine.partition('.')[0]}.local"}
    return {name.lower() for name in (*names, urlsplit(public).hostname or "") if name}


async def drain(receive: Receive) -> None:
    """Read a part of a refused body: a client whose connection closes while it sends never gets the response."""
    read = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while read < _DROPPED:
                message = await receive()
                read += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def client_of(scope: Scope) -> str:
    """Return the client to whose rate a request counts; see ``network``."""
    return network(scope["client"][0] if scope.get("client") else "")


def network(address: str) -> str:
    """Return the unit whose rate counts: an IPv4 address, or the 64 bits of IPv6 that one household has.

    A link-local address of IPv6 counts as a whole.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a proxy may send any text
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:  # the form of IPv4 at a socket for both
        return str(parsed.ipv4_mapped)
    return str(parsed) if parsed.is_link_local else str(ipaddress.IPv6Network((int(parsed), 64), strict=False))
