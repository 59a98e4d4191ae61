"""A listening port of this machine, and its address. This module needs no library."""

import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator

from pretext.errors import UserError


def check_port(port: int) -> None:
    """Raise UserError if a number is no port."""
    if not 0 <= port < 65536:
        raise UserError(f"port is {port}: it must lie in [0, 65535]; 0 chooses a free port")


def open_listener(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Args:
        host: an address or name of this machine.
        port: 0 takes one that is free.

    Raises:
        UserError: the port is in use or not ours to take, or the machine does not have that address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"host {host}: no such address; use 127.0.0.1 for this machine alone, or 0.0.0.0 for all that can reach it"
        ) from (error)
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # a port that a stopped page left a minute ago is free
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(
            f"port {port} on {host}: cannot be opened ({error.strerror}); give another with --port, or 0 for any"
        ) from error
    return listener


def address_of(listener: socket.socket, public: str = "") -> str:
    """Return the URL of a page, without a path."""
    if public:
        return public.rstrip("/")
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        # This machine's address in its network, if it has one. Nothing is sent.
        with contextlib.suppress(OSError), socket.socket(listener.family, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1" if listener.family == socket.AF_INET else "2001:db8::1", 9))
            host = str(probe.getsockname()[0]) or host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextlib.contextmanager
def require_extra(what: str) -> Iterator[None]:
    """Raise a UserError that names the missing extra if an import fails in this context."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("starlette", "uvicorn", "anyio", "h11"):
            raise
        raise UserError(f"{error.name} is not installed, which {what} needs: pip install 'pretint[apps]'") from error
