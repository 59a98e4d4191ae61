"""What stands between a page and the network: bounds on bodies and rates, whose requests are heard, headers.

Plain ASGI, so that nothing of a request is read before it is bounded.
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
"""On every answer. No script runs but our files: text that somebody smuggled in stays text."""

SMALL_BODY = 16 * 1024
"""Bytes that a request may bring where nothing else is said."""

_CLIENTS = 4096  # whose rates are remembered
_PATIENCE = 30.0  # seconds for which a body may stand still, and that all of it has beyond those of _SLOWEST
_SLOWEST = 25_000.0  # bytes of a body a second: a photograph of 20 MB comes even from a phone far from its router
_LONGEST = 900.0  # seconds that any body has
_DROPPED = 8 << 20  # bytes of a body that is too large, which are read nevertheless
_SAFE = ("GET", "HEAD", "OPTIONS")


class Rate(NamedTuple):
    """A token bucket: ``burst`` requests at once, and then so many a second."""

    burst: float
    per_second: float


class Buckets:
    """One bucket for each client. Of many clients, those that were not heard of for longest are forgotten."""

    def __init__(self, rate: Rate, now: Callable[[], float] = time.monotonic) -> None:
        self.rate, self._now = rate, now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __contains__(self, client: str) -> bool:
        return client in self._left

    def add(self, client: str) -> None:
        """Remember a client who is not."""
        self._left.setdefault(client, (self.rate.burst, self._now()))
        self._forget()

    def _forget(self) -> None:
        while len(self._left) > _CLIENTS:
            self._left.popitem(last=False)

    def wait(self, client: str) -> float:
        """Seconds until a request of that client may pass; 0 lets it, and counts it."""
        now = self._now()
        left, since = self._left.pop(client, (self.rate.burst, now))
        left = min(self.rate.burst, left + (now - since) * self.rate.per_second)
        passes = left >= 1
        self._left[client] = (left - passes, now)
        self._forget()
        return 0 if passes else (1 - left) / self.rate.per_second


class AddressLimit:
    """Limits the requests of each address to a rate; see ``network``."""

    def __init__(self, rate: Rate) -> None:
        self._buckets = Buckets(rate)

    def __call__(self, scope: Scope) -> float:
        """Seconds until the request may pass."""
        return self._buckets.wait(client_of(scope))


class Guard:
    """Wraps an application; see the module.

    Args:
        app: what is guarded.
        names: host names under which the page may be asked for, beside addresses written as numbers. Any other
            would be a foreign site's name that was pointed at this machine (DNS rebinding).
        bodies: bytes that a request's body may have, by the beginning of its path; ``SMALL_BODY`` elsewhere.
        limit: how many seconds a request must wait before it is heard, by its scope; 0 passes, and is counted. By
            default each address may send 600 requests at once, and then 60 a second.
        public: the address by which browsers know the page, where a proxy asks for it under another.
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
        self.limit = limit or AddressLimit(Rate(600, 60))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # web sockets: nobody here speaks them
            await send({"type": "websocket.close", "code": 1003})
            return

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        # Whoever left in the middle of a body is nobody's mistake here; and the server cancels what it cannot wait for.
        with contextlib.suppress(ClientDisconnect, asyncio.CancelledError):
            await self._answer(scope, receive, dressed)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        limit = _longest(self.bodies, scope["path"], SMALL_BODY)
        if _declared(Headers(scope=scope)) > limit:
            await dropped(receive)
            refusal = PlainTextResponse(_said(limit), 413, headers={"connection": "close"})
            await refusal(scope, receive, send)
            return
        seen, more, began = 0, True, 0.0

        async def bounded() -> Message:
            nonlocal seen, more, began
            if not more:
                return await receive()  # which waits until the client is gone
            now = time.monotonic()
            began = began or now  # of being read: who waits for a turn does not send
            left = min(_PATIENCE, began + min(_LONGEST, _PATIENCE + seen / _SLOWEST) - now)
            try:
                message = await asyncio.wait_for(receive(), left)
            except TimeoutError:
                raise HTTPException(408, "The rest of this did not come.\n") from None
            more = message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > limit:
                raise HTTPException(413, _said(limit))  # Starlette answers with it, whoever was reading
            return message

        await self.app(scope, bounded, send)

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.knows(host):
            return PlainTextResponse("This page does not go by that name.\n", 421)
        if scope["method"] not in _SAFE and not self._from_here(headers, host):
            return PlainTextResponse("This came from another site.\n", 403)
        if wait := self.limit(scope):
            after = {"retry-after": str(math.ceil(wait))}
            return PlainTextResponse("Too many requests; try again in a while.\n", 429, headers=after)
        return None

    def _from_here(self, headers: Headers, host: str) -> bool:
        """Whether a request that changes something comes from a page of ours, or from no browser at all."""
        if site := headers.get("sec-fetch-site"):
            return site in ("same-origin", "none")
        origin = headers.get("origin")  # all that browsers say where the page is not served over HTTPS
        if origin is None or (self.public and origin.lower() == self.public.lower().rstrip("/")):
            return True
        return urlsplit(origin).netloc.lower() == host.lower()

    def knows(self, host: str) -> bool:
        """Whether a Host header is one that this page goes by."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.names or _is_address(name)


def names_here(host: str, public: str = "") -> set[str]:
    """The names of this machine, that which it is bound to, and that of a public address."""
    machine = socket.gethostname()
    names = {"localhost", host, machine, f"{machine.partition('.')[0]}.local"}
    return {name.lower() for name in (*names, urlsplit(public).hostname or "") if name}


def _said(limit: int) -> str:
    return f"Too large: at most {f'{limit / 1e6:.0f} MB' if limit >= 1e6 else f'{limit:,} bytes'}.\n"


async def dropped(receive: Receive) -> None:
    """Read a part of a body that nobody wants: who is cut off while sending never hears why."""
    read = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE):
            while read < _DROPPED:
                message = await receive()
                read += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _declared(headers: Headers) -> int:
    try:
        return int(headers.get("content-length", "0"))
    except ValueError:
        return 0


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def client_of(scope: Scope) -> str:
    """Whose rate a request counts to; see ``network``."""
    return network(scope["client"][0] if scope.get("client") else "")


def network(address: str) -> str:
    """Whose rate counts: an address; of IPv6 the 64 bits that one household has, but not where that is this link."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # as a proxy may say it, of any length
        return ""
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:  # how a socket for both tells of IPv4
        return str(parsed.ipv4_mapped)
    return str(parsed) if parsed.is_link_local else str(ipaddress.IPv6Network((int(parsed), 64), strict=False))


def _longest(bounds: dict[str, int], path: str, otherwise: int) -> int:
    fitting = [start for start in bounds if path.startswith(start)]
    return bounds[max(fitting, key=len)] if fitting else otherwise
