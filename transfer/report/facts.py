"""What a run was asked for and by what it was made, as text."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pretext.engine.journal import Record
from pretext.engine.run import Settings
from transfer.report.panels import of_kind, setting


def steps_done(settings: Settings, records: Sequence[Record]) -> dict[str, int | None]:
    """How many steps were taken, and how many were asked for, if that is known."""
    asked = setting(settings, "training", "steps")
    done = max((record["step"] for record in of_kind(records, "step")), default=0)
    return {"done": done, "asked": asked if isinstance(asked, int) else None}


def groups(settings: Settings) -> dict[str, dict[str, str]]:
    """Settings by group, as text; those of no group come last."""
    groups = {name: values for name, values in settings.items() if isinstance(values, dict)}
    groups["other"] = {name: value for name, value in settings.items() if not isinstance(value, dict)}
    return {
        str(group): {str(name): _text(value) for name, value in values.items()}
        for group, values in groups.items()
        if values
    }


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_text(inner)}" for name, inner in value.items()) or "none"
    return str(value)


def calls(records: Sequence[Record]) -> dict[str, Any] | None:
    """The job's calls on this run: when, on what; the last one's facts and versions."""
    starts = of_kind(records, "start")
    if not starts:
        return None
    last = starts[-1]
    versions = last.get("versions")
    return {
        "resumed": [record["step"] for record in starts[1:]],
        "first": _when(starts[0]),
        "last": _when(last),
        "facts": {name: _text(last[name]) for name in last if name not in ("kind", "step", "time", "versions")},
        "versions": {str(name): _text(value) for name, value in versions.items()} if isinstance(versions, dict) else {},
    }


def _when(record: Record) -> str:
    try:
        return f"{datetime.fromtimestamp(record['time'], UTC):%Y-%m-%d %H:%M} UTC"
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return "at an unknown time"


def remarks(records: Sequence[Record]) -> list[tuple[str, str]]:
    """Key and reason of what was skipped in training, or was mended, each once."""
    return list(dict.fromkeys((str(one["key"]), str(one["reason"])) for one in of_kind(records, "skipped")))
