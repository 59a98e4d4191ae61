"""Settings: what is wrong is named in one line, with its place and the nearest right name."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from pretext.errors import UserError
from pretext.recipe import PretrainSettings
from pretext.settings import Positional, parse_command, settings_file, settings_from, to_plain


@dataclass
class Inner:
    """Inner settings.

    Args:
        rate: a rate.
        pair: two numbers.
        kind: one of two.
    """

    rate: float = 0.5
    pair: tuple[float, float] = (1.0, 2.0)
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise UserError(f"inner.rate is {self.rate}: it must not be negative")


@dataclass
class Outer:
    """Outer settings.

    Args:
        inner: the inner ones.
        count: a count.
        out: a place.
        words: some words.
    """

    inner: Inner = field(default_factory=Inner)
    count: int = 3
    out: Path = Path("here")
    words: list[str] = field(default_factory=list)


def parse(*words: str) -> tuple[list[Path], Outer]:
    return parse_command("test", "About.", Outer, [Positional("run", "a run")], words)


def test_defaults_file_and_options(tmp_path: Path) -> None:
    assert parse("r") == ([Path("r")], Outer())
    config = tmp_path / "c.yaml"
    config.write_text("inner:\n  rate: 0.25\n  pair: [3, 4]\ncount: 7\n")
    (run,), settings = parse("r", "--config", str(config), "--count", "9", "--inner.kind=b", "--out", "there")
    assert run == Path("r")
    assert settings == Outer(Inner(0.25, (3.0, 4.0), "b"), 9, Path("there"))
    assert parse("r", f"--config={config}")[1].count == 7


def test_lists_of_words_take_commas_or_brackets() -> None:
    for words in (("--words", "a,b c"), ("--words=a,b c",), ("--words", "[a, b c]"), ("--words=[a, b c]",)):
        assert parse("r", *words)[1].words == ["a", "b c"]
        assert settings_from(Outer, {"words": words[-1].removeprefix("--words=")}, "test").words == ["a", "b c"]
    assert parse("r", "--words", "1", "--out", "a,b")[1] == Outer(words=["1"], out=Path("a,b"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--inner.rat", "1"], r"no setting is called inner\.rat; the nearest is inner\.rate"),
        (["--rate", "1"], r"no setting is called rate; the nearest is inner\.rate"),
        (["--count", "many"], r"setting count: Expected a int\. Got value: many"),
        (["--count", "1.5"], r"setting count: .*1\.5"),
        (["--inner.pair", "[1,2,3]"], r"setting inner\.pair: "),
        (["--inner.kind", "c"], r"setting inner\.kind: .*'a', 'b'.*Got value: c"),
        (["--inner.rate", "-1"], r"inner\.rate is -1\.0: it must not be negative"),
        (["--config", "nowhere.yaml"], r"nowhere\.yaml: cannot read"),
        (["another"], r"another"),
    ],
)
def test_a_wrong_option_is_one_line(words: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        parse("r", *words)
    assert "\n" not in str(error.value)


def test_a_missing_argument() -> None:
    with pytest.raises(UserError, match="run"):
        parse()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner:\n  rat: 1\n", r"no setting is called inner\.rat; the nearest is inner\.rate"),
        ("cuont: 1\n", r"no setting is called cuont; the nearest is count"),
        ("count: many\n", r"setting count: Expected a int\. Got value: many"),
        ("count: [1\n", r"not valid YAML"),
        ("- 1\n", r"holds no settings"),
        ("", r"holds no settings"),
        ("# nothing\n", r"holds no settings"),
        ("count: 1\ncount: 2\n", r"count is set twice"),
        ("inner: {rate: 1}\ninner: {kind: b}\n", r"inner is set twice"),
        ("inner: {rate: null}\n", r"inner\.rate has no value"),
        ("count: " + "9" * 5000, r"not valid YAML|count"),
        ("[" * 3000, r"not valid YAML"),
        ("inner: 3\n", r"inner"),
        ("inner: {rate: -1}\n", r"must not be negative"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    for call in (lambda: settings_file(Outer, path), lambda: parse("r", "--config", str(path))):
        with pytest.raises(UserError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)


def test_options_win_wherever_the_file_stands(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("count: 7\n")
    for words in (["--count", "9", "--config", str(config)], ["--config", str(config), "--count", "9"]):
        assert parse("r", *words)[1].count == 9
    assert parse("--count=9", "r", f"--config={config}")[1].count == 9


def test_plain_values_round_trip() -> None:
    settings = Outer(Inner(0.25, (3.0, 4.0), "b"), 9, Path("there"))
    values = to_plain(settings)
    assert values == {"inner": {"rate": 0.25, "pair": [3.0, 4.0], "kind": "b"}, "count": 9, "out": "there", "words": []}
    assert settings_from(Outer, values, "test") == settings


def test_every_recipe_is_valid() -> None:
    recipes = sorted((Path(__file__).parents[2] / "configs" / "pretext").glob("*.yaml"))
    assert recipes
    for recipe in recipes:
        settings = settings_file(PretrainSettings, recipe)
        assert settings_from(PretrainSettings, to_plain(settings), "again") == settings


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse_command("pretint pretrain", "About.", PretrainSettings, [], ["--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("--training.lr", "--objective.uniform", "--crop.area", "--machine.workers", "--seed"):
        assert name in shown
    assert "peak learning rate" in shown and "default: 0.002" in shown


def test_dashes_and_answers(tmp_path: Path) -> None:
    _, settings = parse_command(
        "pretint pretrain", "", PretrainSettings, [], ["--machine.compile", "--training.batch-size", "32", "--seed=3"]
    )
    assert settings.machine.compile and settings.training.batch_size == 32 and settings.seed == 3
    words = ["--training.decay-biases", "false", "--machine.channels_last", "--crop.squash"]
    _, settings = parse_command("pretint pretrain", "", PretrainSettings, [], words)
    assert not settings.training.decay_biases and settings.machine.channels_last and settings.crop.squash
