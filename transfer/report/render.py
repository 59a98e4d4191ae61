"""Pages of the report from templates, with the numbers and images in them."""

import base64
import io
from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from pretext.errors import UserError
from transfer.bootstrap import METRIC_TITLES, Estimate
from transfer.report.published import STAGES

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
    environment.filters |= {"percent": percent, "interval": interval, "points": points, "count": count, "signs": signs}
    page = environment.get_template(file.name).render(
        pretint=version("pretint"), measures=METRIC_TITLES, published_stages=STAGES, listed=LISTED, **facts
    )
    return page.encode("utf-8", "replace")


def percent(fraction: float) -> str:
    """Write a fraction in percent, not broken across lines: 0.6618 -> 66.2 %."""
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def points(fraction: float) -> str:
    """Write a difference with its sign, in percentage points: 0.116 -> +11.6."""
    return f"{100 * fraction:+.1f}".replace("-", "\N{MINUS SIGN}")


def interval(bar: Estimate) -> str:
    """Write an interval in percent: [64.7, 67.7]."""
    return f"[{100 * bar.low:.1f}, {100 * bar.high:.1f}]".replace("-", "\N{MINUS SIGN}")


def signs(text: str) -> str:
    """Write the signs of a table's number as they are printed."""
    return text.replace("+-", "\N{PLUS-MINUS SIGN}").replace("-", "\N{MINUS SIGN}")


def count(number: int) -> str:
    """Write a number with its thousands apart: 8000 -> 8,000."""
    return f"{number:,}"


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
