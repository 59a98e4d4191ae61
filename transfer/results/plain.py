"""Values of a file from outside: each of the type that is expected, or a ValueError that says what it is."""

import math
from typing import Any, Literal, get_args, get_origin, get_type_hints


def plain(kind: type, found: Any) -> dict[str, Any]:
    """The fields of a dataclass that are a single text or number, of the right type; of ``file`` it has none."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for name, hint in hints.items():
        if name == "file":
            continue
        if hint is str:
            values[name] = text(found[name])
        elif get_origin(hint) is Literal:
            if found[name] not in get_args(hint):
                raise ValueError(f"unknown {name} {short(found[name])}")
            values[name] = found[name]
        elif hint is int:
            values[name] = int(number(found[name]))
            if type(found[name]) is not int or not 0 <= found[name] < 2**63:
                raise ValueError(f"{name} is {short(found[name])}")
        elif hint is float:
            values[name] = number(found[name])
    return values


def text(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError(f"{short(value)} where text is expected")
    return value


def texts(value: Any) -> tuple[str, ...]:
    """Texts."""
    return tuple(text(one) for one in listed(value))


def pair(value: Any) -> tuple[str, str]:
    """Two texts."""
    key, reason = texts(value)
    return key, reason


def listed(value: Any) -> list[Any]:
    """A list, of anything."""
    if not isinstance(value, list):
        raise ValueError(f"{short(value)} where a list is expected")
    return value


def named(value: Any) -> dict[str, Any]:
    """Names with values, which may be anything."""
    if not isinstance(value, dict):
        raise ValueError(f"{short(value)} where names with values are expected")
    return value


def number(value: Any) -> float:
    """A finite number."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{short(value)} where a number is expected")
    return float(value)


def refuse(name: str) -> float:
    """What JSON has no word for: NaN, Infinity."""
    raise ValueError(f"{name} is no number")


def short(value: Any) -> str:
    """A value in at most 60 letters."""
    written = str(value)
    return written if len(written) <= 60 else f"{written[:57]}..."
