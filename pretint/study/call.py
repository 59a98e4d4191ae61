"""What a study was called with: with the pictures, all that it takes to do it again."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pretext.plugins import VARIABLE, plugin_digests
from pretint.study.file import StudySettings
from pretint.study.plan import Plan

if TYPE_CHECKING:
    from pretint.study.run import StudyOptions

_OPTIONS = ("folder", "name")  # the others say how a study is computed, and not what


@dataclass(frozen=True)
class Call:
    """Plain, as it stands in a plan."""

    words: tuple[str, ...] = ()
    """As after ``pretint``; empty in a plan that does not say."""
    files: dict[str, str] = field(default_factory=dict)
    """The study's file and the recipes that it names: what was in each."""
    plugins: dict[str, str] = field(default_factory=dict)
    """SHA-256 of the plugins that were loaded, by path."""

    @property
    def line(self) -> str:
        """For a shell."""
        plugins = f"{VARIABLE}={shlex.quote(':'.join(self.plugins))} " if self.plugins else ""
        return f"{plugins}{shlex.join(('pretint', *self.words))}"


def with_call(plan: Plan, file: Path, study: StudySettings, places: Sequence[str], options: "StudyOptions") -> Plan:
    """A plan that says what it is of.

    Args:
        plan: of the study.
        file: of the study.
        study: what is in it.
        places: PLACE=FOLDER each.
        options: where it is done.
    """
    usual = type(options)()
    own = [f"--{key}={getattr(options, key)}" for key in _OPTIONS if getattr(options, key) != getattr(usual, key)]
    recipes = [variant.config for variant in study.expanded]
    recipes += [str(asked.get("config", "")) for asked in study.evaluations.values()]
    names = dict.fromkeys([str(file), *filter(None, recipes)])
    texts = {name: Path(name).read_text(encoding="utf-8", errors="replace") for name in names}
    return replace(plan, call=asdict(Call(("study", str(file), *places, *own), texts, plugin_digests())))


def call_of(plan: Plan) -> Call:
    """What a plan says of its call; an empty one of a plan that says nothing, or nothing that can be read."""
    try:
        words, files, plugins = (plan.call.get(name, ()) for name in ("words", "files", "plugins"))
        return Call(tuple(map(str, words)), _texts(files), _texts(plugins))
    except (AttributeError, TypeError, ValueError):
        return Call()


def _texts(values: object) -> dict[str, str]:
    return {str(name): str(text) for name, text in dict(values).items()}  # type: ignore[call-overload]
