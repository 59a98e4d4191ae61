"""Roles of settings. A field of a dataclass of settings states its role in its metadata.

science    changes the result
seed       tells repetitions apart, which a table joins
content    a path or a name of data, which counts by its content
machine    where and how fast: the result is the same

A setting that is a dataclass itself is a group: its fields have roles. A field may also state the interval of its
values, as "[0, 1)" or "[0, 2^63)", see ``check_ranges``.
"""

from collections.abc import Callable
from dataclasses import field, fields, is_dataclass
from typing import Any, Literal, get_args

from pretext.errors import UserError
from pretext.settings import to_plain

Role = Literal["science", "seed", "content", "machine"]
ROLES: tuple[Role, ...] = get_args(Role)


def science(default: Any, within: str = "") -> Any:
    """Return a field that changes the result. A function or type as default makes the default."""
    return _field("science", default, within)


def seed(default: int = 0, within: str = "[0, 2^63)") -> Any:
    """Return a field that tells repetitions apart."""
    return _field("seed", default, within)


def content(default: Any) -> Any:
    """Return a field that counts by the content of what it names."""
    return _field("content", default)


def machine(default: Any, within: str = "") -> Any:
    """Return a field that does not change the result."""
    return _field("machine", default, within)


def _field(role: Role, default: Any, within: str = "") -> Any:
    if isinstance(default, Callable):  # type: ignore[arg-type]
        return field(default_factory=default, metadata={"role": role, "within": within})
    return field(default=default, metadata={"role": role, "within": within})


def check_ranges(settings: Any, group: str = "") -> None:
    """Check that every setting, or every item of a list, lies in the interval that its field states.

    Args:
        settings: the settings.
        group: what stands before their names in errors: "head.".

    Raises:
        UserError: one does not.
    """
    for setting in fields(settings):
        if within := setting.metadata.get("within"):
            value = getattr(settings, setting.name)
            ends = (end.partition("^") for end in within[1:-1].split(", "))
            low, high = (float(base) ** int(power or 1) for base, _, power in ends)
            for number in value if isinstance(value, list | tuple) else [value]:
                is_end = (number == low and within[0] == "[") or (number == high and within[-1] == "]")
                if not (low < number < high or is_end):
                    raise UserError(f"{group}{setting.name} is {value}: it must lie in {within}")


def names(kind: type, *chosen: Role) -> list[str]:
    """Return the names, with dots, of the settings of some roles; a group that has no others is named as a whole."""
    selected = []
    for setting in fields(kind):
        group = setting.type
        if isinstance(group, type) and is_dataclass(group):
            inner = names(group, *chosen)
            is_whole = inner == [each.name for each in fields(group)]
            selected += [setting.name] if is_whole else [f"{setting.name}.{name}" for name in inner]
        elif setting.metadata["role"] in chosen:
            selected.append(setting.name)
    return selected


def select(settings: Any, *chosen: Role, base: Any = None) -> dict[str, Any]:
    """Return settings as nested plain values, without empty groups.

    Args:
        settings: a dataclass of settings.
        chosen: the roles of those that are returned; all, if none is named.
        base: other settings of the same dataclass; settings that are the same there are left out.
    """
    values: dict[str, Any] = {}
    for setting in fields(settings):
        value, other = getattr(settings, setting.name), getattr(base, setting.name, None)
        if is_dataclass(value):
            if inner := select(value, *chosen, base=other):
                values[setting.name] = inner
        elif (not chosen or setting.metadata["role"] in chosen) and (
            base is None or to_plain(value) != to_plain(other)
        ):
            values[setting.name] = to_plain(value)
    return values


def changed(settings: Any, *chosen: Role) -> dict[str, Any]:
    """Return the settings that differ from the defaults: so a setting that is added later changes nothing."""
    return select(settings, *chosen, base=type(settings)())
