"""Answers of a page: its files, its templates, and the JSON that its scripts send."""

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Count(Convertor[int]):
    """{name:count} in a path: a number of at most nine digits; Starlette's int has no limit."""

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        """Convert to the value for a handler."""
        return int(value)

    def to_string(self, value: int) -> str:
        """Convert to the text in a path."""
        return str(value)


register_url_convertor("count", Count())


async def read_object(request: Request) -> dict[str, Any]:
    """Read the JSON object in a request; raise `HTTPException` if it holds none."""
    try:
        content = json.loads(await request.body())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise HTTPException(400, "Send a JSON object.")
    return content


def static_route(*packages: str) -> Route:
    """Return the route /static/NAME of files in the folders ``static`` of packages, which are read now."""
    contents: dict[str, tuple[bytes, str]] = {}
    for package in packages:
        for file in files(package).joinpath("static").iterdir():
            kind = _MEDIA_TYPES.get(file.name.rpartition(".")[2])
            if kind:
                assert file.name not in contents, file.name
                contents[file.name] = (file.read_bytes(), kind)

    def static(request: Request) -> Response:
        content, kind = contents.get(request.path_params["name"], (b"", ""))
        if not kind:
            return PlainTextResponse("No such file.\n", 404)
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return Route("/static/{name}", static)


def renderer(package: str) -> Callable[..., str]:
    """Return render(name, **values): it fills a template in a package's folder ``static``, and escapes all values."""
    from jinja2 import DictLoader, Environment, StrictUndefined

    texts = {
        file.name: file.read_text(encoding="utf-8")
        for origin in ("pretint.apps.web", package)
        for file in files(origin).joinpath("static").iterdir()
        if file.name.endswith(".html")
    }
    environment = Environment(
        loader=DictLoader(texts), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )

    def render(name: str, **values: object) -> str:
        return environment.get_template(name).render(**values)

    return render
