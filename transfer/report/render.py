"""How a page is made of a template, and how it writes numbers."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from transfer.bootstrap import MEASURES, Estimate
from transfer.report.published import STAGES

LISTED = 50
"""At most so many skipped images are listed."""


def rendered(template: str | Path, **facts: Any) -> bytes:
    """A page: whatever is not a chart of our own is escaped.

    Args:
        template: the name of a file beside this one; or the path of a file elsewhere, which may extend those.
        facts: what it speaks of.
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
        pretint=version("pretint"), measures=MEASURES, published_stages=STAGES, listed=LISTED, **facts
    )
    return page.encode("utf-8", "replace")


def percent(fraction: float) -> str:
    """0.6618 -> 66.2 %, not broken across lines."""
    return f"{100 * fraction:.1f}\N{NO-BREAK SPACE}%"


def points(fraction: float) -> str:
    """A difference with its sign, in percentage points: 0.116 -> +11.6."""
    return f"{100 * fraction:+.1f}".replace("-", "\N{MINUS SIGN}")


def interval(bar: Estimate) -> str:
    """[64.7, 67.7], in percent."""
    return f"[{100 * bar.low:.1f}, {100 * bar.high:.1f}]".replace("-", "\N{MINUS SIGN}")


def signs(text: str) -> str:
    """The signs of a table's number as they are printed."""
    return text.replace("+-", "\N{PLUS-MINUS SIGN}").replace("-", "\N{MINUS SIGN}")


def count(number: int) -> str:
    """8000 -> 8,000."""
    return f"{number:,}"
