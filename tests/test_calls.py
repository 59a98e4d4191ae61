"""Calls as data: a command line, a call and a call file say the same; what is wrong with a file is one line."""

import json
import shlex
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pretint.cli
from pretext.errors import UserError
from pretext.store import seal, unseal
from pretint.commands import COMMANDS, Call, Command, call_of, find_command, line_of, read_call, seal_call, tasks

SENT = [
    command._replace(check=None)
    for name, command in {**COMMANDS, **{task.name: task for task in tasks().values()}}.items()
    if command.sendable and name != "finetune"
]
TEXTS = st.text("abc/.:x1-_ {}[],'\"&#", max_size=8).filter(lambda text: text.strip() == text)


def values(kind: Any, usual: Any) -> st.SearchStrategy[Any]:
    """Values of a setting's type, near the default, so that most are right."""
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if kind is bool:
        return st.booleans()
    if kind is int and usual > 2:
        return st.integers(usual - 1, usual + 1)
    if kind is float and usual:
        return st.floats(usual * 0.9, usual * 1.1)
    if kind is str and not usual:
        return TEXTS
    return st.just(usual)


@st.composite
def random_settings(draw: st.DrawFn, kind: type[Any]) -> Any:
    usual, types, changes = kind(), get_type_hints(kind), {}
    for name in draw(st.lists(st.sampled_from([field.name for field in fields(kind)] or [""]), max_size=3)):
        if name and is_dataclass(getattr(usual, name)):
            changes[name] = draw(random_settings(type(getattr(usual, name))))
        elif name:
            changes[name] = draw(values(types[name], getattr(usual, name)))
    try:
        return replace(usual, **changes)
    except (UserError, ValueError):  # they do not go together
        return usual


@st.composite
def calls(draw: st.DrawFn) -> Call:
    command = draw(st.sampled_from(SENT))
    words = st.sampled_from(["runs/a b", "x", "timm:resnet18:f.pth"])
    positionals = [
        [one.kind(word) for word in draw(st.lists(words, min_size=1, max_size=3))]
        if one.nargs in ("*", "+")
        else one.kind(draw(words))
        for one in command.positionals
        if not one.recipe
    ]
    chosen = draw(random_settings(command.kind))
    return Call(command, positionals, chosen, line_of(command, positionals, chosen))


@given(calls())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_line_and_the_plain_values_of_a_call_give_the_call(call: Call) -> None:
    command = call.command
    words = shlex.split(call.line)[1 + len(command.name.split()) :]
    if not any(one.recipe for one in command.positionals):
        assert command.parse(words) == call
        plain = unseal(seal(call.plain))
        assert call_of(plain, "x")[1:] == call[1:], "it comes back from a file"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    call = COMMANDS["table"].parse([str(tmp_path / "nowhere"), "--format", "csv"])
    path = tmp_path / "call.json"
    path.write_bytes(seal_call(call.plain))
    return path


def test_a_call_file_runs_as_the_line_does(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pretint.cli.main(["run", str(file)]) == 2
    by_file = capsys.readouterr()
    assert pretint.cli.main(shlex.split(read_call(file).line)[1:]) == 2
    assert capsys.readouterr() == by_file and "nowhere" in by_file.err, "a path that has vanished is one line"


def test_a_setting_of_a_later_version_has_its_default(file: Path) -> None:
    call = read_call(file)
    assert call.plain["settings"] == {"format": "csv"}, "defaults are left out"
    assert call.settings == COMMANDS["table"].kind(format="csv")


def edit(**changes: Any) -> Any:
    return lambda content: seal({**unseal(content), **changes})


BAD: dict[str, tuple[Any, str]] = {
    "edited by hand": (lambda content: content.replace(b"csv", b"latex"), "changed by hand"),
    "cut": (lambda content: content[:50], "damaged"),
    "empty": (lambda content: b"", "damaged"),
    "no object": (lambda content: b"[1]", "damaged"),
    "deep": (lambda content: b"[" * 10**6, "damaged"),
    "huge": (lambda content: b'{"a": "' + b"x" * 2**25 + b'"}', "damaged"),
    "no text": (lambda content: b"\xff\x00", "damaged"),
    "another version": (edit(format="pretint call 0"), "not a call of this version"),
    "no such command": (edit(command="tabel"), "no command is called tabel; did you mean table?"),
    "no such task": (edit(command="finetune detct"), "no task is called detct"),
    "no command": (edit(command=""), "not a call of this version"),
    "a number": (edit(command=5), "not a call of this version"),
    "half a command": (edit(command="finetune"), "not a call of this version"),
    "too few arguments": (edit(positionals=[]), "not a call of this version"),
    "a list as a word": (edit(positionals=["x"]), "not a call of this version"),
    "nested arguments": (edit(positionals=[[["x"]]]), "not a call of this version"),
    "no settings": (edit(settings=None), "holds no settings"),
    "an unknown setting": (edit(settings={"formt": "csv"}), "no setting is called formt; the nearest is format"),
    "a wrong value": (edit(settings={"format": "pdf"}), "setting format"),
    "deep settings": (edit(settings={"format": json.loads("[" * 500 + "]" * 500)}), "64 levels"),
    "a command that is not sent": (edit(command="jobs", positionals=[[]], settings={}), "type the command"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_wrong_call_file_is_one_line(case: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, message = BAD[case]
    file.write_bytes(change(file.read_bytes()))
    assert pretint.cli.main(["run", str(file)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("pretint: ") and message in err and err.count("\n") == 1, err
    assert len(err) < 500


def test_a_call_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (tmp_path, tmp_path / "none.json"):
        assert pretint.cli.main(["run", str(name)]) == 2
        assert f"{name}: cannot be read" in capsys.readouterr().err


def test_every_evaluation_is_a_command_with_networks_and_out() -> None:
    for command in COMMANDS.values():
        if command.evaluates:
            kinds = [task.kind for task in tasks().values()] if command.name == "finetune" else [command.kind]
            assert command.positionals[0].nargs == "+" and all(hasattr(kind(), "out") for kind in kinds)


@pytest.mark.parametrize("command", SENT, ids=lambda command: command.name)
@pytest.mark.parametrize("width", [80, 120])
def test_help_is_in_words_for_users(
    command: Command, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        find_command(command.name.split())[0].parse(["--help"])
    shown = capsys.readouterr().out
    assert all(len(line) <= width for line in shown.splitlines() if len(line.split()) > 1), shown
    assert not any(word in shown for word in ("Union[", "Literal[", "<class", "list[", "dict[", "Optional")), shown
    assert all(f"--{field.name}" in shown for field in fields(command.kind))
