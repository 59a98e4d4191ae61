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

_KINDS = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Count(Convertor[int]):
    """In a path, {name:count}: a number that everything here can hold, which Starlette's int need not be."""

    regex = "[0-9]{1,9}"

    def convert(self, value: str) -> int:
        """What a handler gets."""
        return int(value)

    def to_string(self, value: int) -> str:
        """What stands in a path."""
        return str(value)


register_url_convertor("count", Count())


async def sent_object(request: Request) -> dict[str, Any]:
    """The JSON object that a script of ours sends; an `HTTPException` where it is none."""
    try:
        sent = json.loads(await request.body())
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        raise HTTPException(400, "Send a JSON object.")
    return sent


def static_route(*packages: str) -> Route:
    """GET /static/NAME: the files in the folder ``static`` of these packages, read once; no path is ever opened."""
    found: dict[str, tuple[bytes, str]] = {}
    for package in packages:
        for file in files(package).joinpath("static").iterdir():
            kind = _KINDS.get(file.name.rpartition(".")[2])
            if kind:
                assert file.name not in found, file.name
                found[file.name] = (file.read_bytes(), kind)

    def static(request: Request) -> Response:
        content, kind = found.get(request.path_params["name"], (b"", ""))
        if not kind:
            return PlainTextResponse("No such file.\n", 404)
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})

    return Route("/static/{name}", static)


def renderer(package: str) -> Callable[..., str]:
    """render(name, **values): a template of a package's folder ``static``, every value escaped."""
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
