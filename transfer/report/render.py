"""Pages of the report from templates, with the numbers and images in them."""

import base64
import io
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from pretext.errors import UserError
from transfer.bootstrap import METRIC_TITLES
from transfer.layout import Number

LISTED = 50
"""The largest number of skipped images that a page lists."""


def render_page(template: str | Path, **facts: Any) -> bytes:
    """Return a page; everything except our own charts is escaped.

    Args:
        template: the name of a file beside this one; or the path of a file elsewhere, which may extend those.
        facts: the values that it names.
    """
    file = Path(__file__).parent / template
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, file.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": lambda fraction: f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%",
        "points": lambda fraction: signs(f"{100 * fraction:+.1f}"),
        "interval": lambda bar: signs(Number(bar).interval),
        "signs": signs,
        "count": "{:,}".format,
        "capital": lambda text: text[:1].upper() + text[1:],
        "duration": _duration,
        "size": lambda count: f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB",
        "text": to_text,
        "digest": lambda sha256: f"SHA-256 {sha256[:12]}",
        "filename": lambda path: PurePath(path).name,
        "time": lambda seconds: f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC",
    }
    page = environment.get_template(file.name).render(
        pretint=version("pretint"), measures=METRIC_TITLES, listed=LISTED, **facts
    )
    return page.encode("utf-8", "replace")


def signs(text: str) -> str:
    """Write the signs of a table's number as they are printed."""
    return text.replace("+-", "\N{PLUS-MINUS SIGN}").replace("-", "\N{MINUS SIGN}")


def to_text(value: Any) -> str:
    """Return the value of a setting or of a fact as text."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(to_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {to_text(inner)}" for name, inner in value.items()) or "none"
    return "none" if value in (None, "") else str(value)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


HEAVY = 2_000_000
"""The largest size in bytes of a single image."""

_WIDEST = 1600  # pixels
_SMALLER = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4)  # shares of the width that are tried until an image is light enough
_QUALITY = 90


def image(path: Path, heavy: int = HEAVY) -> dict[str, Any] | None:
    """Return a PNG as a data URL, with its size; None if the file does not exist.

    Args:
        path: the file.
        heavy: bytes; a heavier image becomes a JPEG, and smaller, as does one that is too wide for a page: the widest
            of some sizes that is light enough, or the smallest if none is.

    Raises:
        UserError: the file is no image.
    """
    if not path.is_file():
        return None
    try:
        data, kind = path.read_bytes(), "png"
        with Image.open(io.BytesIO(data)) as original:
            size = original.size
            if len(data) > heavy or original.width > _WIDEST:
                kind, rgb = "jpeg", original.convert("RGB")
                for share in _SMALLER:
                    side = max(1, round(share * min(rgb.width, _WIDEST)))
                    small = rgb.copy()
                    small.thumbnail((side, 4 * side), Image.Resampling.LANCZOS)
                    buffer = io.BytesIO()
                    small.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)  # color, which we show, at full size
                    data, size = buffer.getvalue(), small.size
                    if len(data) <= heavy:
                        break
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be read as an image; make it again or move it away") from error
    url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return {"url": url, "width": size[0], "height": size[1]}


def newest_samples(run: Path) -> dict[str, Any] | None:
    """Return the step and the image of a run's newest samples; None if there are none."""
    path = max(filter(Path.is_file, (run / "samples").glob("[0-9]*.png")), default=None)
    return None if path is None else {"step": path.stem.lstrip("0") or "0", "image": image(path)}
