"""The YAML reader: it runs no code, and a small file cannot become a large value."""

import contextlib
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pretext.errors import UserError

_REPEATED = 100_000  # values that aliases may add to the written ones
_LEVELS = 64  # of values inside values
_DIGITS = 400  # of a number; the largest double has 309
_BYTES = 16 * 2**20  # of a file
_MERGE = "tag:yaml.org,2002:merge"
_TOO_DEEP = f"values are nested in more than {_LEVELS} levels"


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file as plain values; no code in it is run.

    Raises:
        UserError: it cannot be read, is not YAML in UTF-8, has a key twice, or is too large, see ``require_small``.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a file; give a YAML file of settings")
        if (size := path.stat().st_size) > _BYTES:
            raise UserError(f"{path}: {size:,} bytes; a YAML file of settings may have at most {_BYTES:,}")
        return yaml.load(path.read_text(encoding="utf-8"), _Loader)  # a SafeLoader: it runs no code
    except OSError as error:
        raise UserError(f"{path}: cannot read the settings ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8, from byte {error.start:,}; save it as UTF-8") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = _TOO_DEEP if isinstance(error, RecursionError) else " ".join(str(error).split())[:300]
        raise UserError(f"{path}: not valid YAML ({reason}); correct it") from error


def require_small(value: Any) -> None:
    """Raise an error for plain values that are, or would become, large: jsonargparse copies repeated values.

    A text counts as the YAML value in it, because jsonargparse reads it as YAML; other texts count as texts.

    Raises:
        UserError: a value contains itself, repeats more than 100,000 values, has more than 64 levels, or a number more
            than 400 digits.
    """
    try:
        _require_few_repeated(value, _parts_of_value)
    except (_TooLarge, RecursionError) as error:
        raise UserError(_TOO_DEEP if isinstance(error, RecursionError) else str(error)) from error


class _TooLarge(yaml.YAMLError):
    """Values that are too large to write, but that aliases can express."""


class _Loader(yaml.SafeLoader):
    """YAML in which a duplicate key is an error: else one of the two values would be lost silently."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._flattened: set[int] = set()  # ids of nodes

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:  # before values are made: a merge key copies the values of its aliases
            _require_few_repeated(node, _parts_of_node)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if id(node) not in self._flattened:  # merged values are among the keys afterwards
            self._flattened.add(id(node))
            keys: set[Hashable] = set()
            for part, _ in node.value:
                key = part.value if part.tag == _MERGE else self.construct_object(part, deep=True)
                with contextlib.suppress(TypeError):  # such as a list, which cannot be a key
                    if key in keys:
                        raise yaml.YAMLError(f"{key} is set twice")
                    keys.add(key)
        super().flatten_mapping(node)


def _require_few_repeated(value: Any, parts_of: Callable[[Any], Iterable[Any]]) -> None:
    """Count a value and all values in it. An alias (the same object again) counts each time it occurs.

    Args:
        value: the value to count.
        parts_of: returns the values inside a value.

    Raises:
        _TooLarge: see ``require_small``.
    """
    sizes: dict[int, int | None] = {}  # by id; None while a value's parts are counted
    written = 0

    def size_of(value: Any, level: int) -> int:
        nonlocal written
        if level > _LEVELS:
            raise _TooLarge(_TOO_DEEP)
        if id(value) in sizes:
            size = sizes[id(value)]
            if size is None:
                raise _TooLarge("a value in it contains itself")
            return size
        written += 1
        parts = list(parts_of(value))
        if not parts:  # Python shares numbers and texts, so that their ids mean nothing
            return 1
        sizes[id(value)] = None
        size = 1 + sum(size_of(part, level + 1) for part in parts)
        sizes[id(value)] = size
        return size

    if (repeated := size_of(value, 1) - written) > _REPEATED:
        raise _TooLarge(f"its aliases repeat {repeated:,} values; at most {_REPEATED:,} are allowed")


def _parts_of_node(node: yaml.Node) -> Iterable[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if node.tag.endswith((":int", ":float")) and len(node.value) > _DIGITS:
        raise _TooLarge(f"a number of {len(node.value):,} digits; at most {_DIGITS} are allowed")
    return ()


def _parts_of_value(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, str) and (any(sign in value for sign in "&[{") or len(value) > _DIGITS):
        try:
            _Loader(value).get_single_node()
        except _TooLarge:
            raise
        except yaml.YAMLError:
            return ()
    return ()
