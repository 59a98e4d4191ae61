"""YAML from anywhere: a small file never becomes a large value, and what is harmless stays allowed."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Launcher

import pretint.cli
from pretext.engine.run import run_settings
from pretext.errors import UserError
from pretext.recipe import PretrainSettings
from pretext.settings import Positional, parse_command, settings_file, settings_from
from pretext.yaml_reader import read_yaml

LEVELS = "abcdefgh"
NINE = "".join(
    f"{name}: &{name} [{', '.join(['x' if not at else f'*{LEVELS[at - 1]}'] * 9)}]\n" for at, name in enumerate(LEVELS)
)
ALIASES = f"{NINE}i: [{', '.join(['*h'] * 9)}]\n"
MERGES = "a: &a {k: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n" for before, name in pairwise(LEVELS)
)
HARMLESS = "shared: &shared {steps: 300, batch_size: 8}\nlist: &list [1, 2]\nagain: [*list, *list]\n"


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    return str(caught.value)


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "run", "--config", "{}"],
        ["pretrain", "run", "--config={}"],
        ["pretrain", "run", "--training", "{}"],
        ["plan", "{}"],
        ["probe", "run", "--config", "{}"],
        ["finetune", "classify", "run", "--config", "{}"],
        ["colorize", "run", "photo.png", "--config", "{}"],
        ["submit", "--on", "{}", "report", "run"],
        ["submit", "--on", "cluster.yaml", "--jobs", "{}"],
        ["study", "{}"],
        ["pretrain", "run", "--data.source", "bundled", "--backbone.arguments", "{text}"],
    ],
)
def test_every_way_to_give_yaml_is_guarded(words: list[str], launcher: Launcher, tmp_path: Path) -> None:
    """In a process of its own, which may take 60 seconds of processor time: without the guard it takes all memory."""
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text(ALIASES)
    (tmp_path / "cluster.yaml").write_text("executor: local\n")
    call = "import resource, sys, pretint.cli\nresource.setrlimit(resource.RLIMIT_CPU, (60, 60))\n"
    call += "sys.exit(pretint.cli.main(sys.argv[1:]))"
    words = [word.replace("{text}", ALIASES).replace("{}", str(bomb)) for word in words]
    done = launcher.run(*words, code=call, folder=tmp_path)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert b"aliases repeat" in done.stderr


def test_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    for text, reason in (
        (ALIASES, "aliases repeat"),
        (MERGES, "aliases repeat"),
        ("a: &a [*a]\n", "contains itself"),
        ("a: &a {b: {<<: *a}}\n", "contains itself"),
        ("[" * 5000, "more than 64 levels"),
        ("a: " + "[" * 70 + "]" * 70, "more than 64 levels"),
        (f"seed: {'9' * 5000}\n", "a number of 5,000 digits"),
        (f"seed: 1{':59' * 5000}\n", "a number of 15,001 digits"),
        ("a: 1\nb: 2\na: 3\n", "a is set twice"),
        ("<<: {a: 1}\n<<: {b: 1}\n", "<< is set twice"),
        ("? [1, 2]\n: 3\n", "unhashable"),
        ("a:\n\t- 1\n", "cannot start any token"),
        ("a: !!python/object/apply:os.system [touch run]\n", "could not determine a constructor"),
        ("a: \x07\n", "special characters are not allowed"),
    ):
        path.write_text(text)
        line = refusal(path)
        assert line.startswith(f"{path}: not valid YAML (") and reason in line
    path.write_bytes("name: Bär\n".encode("latin-1"))
    assert "not UTF-8, from byte 7" in refusal(path)
    path.write_bytes("a: 1\n".encode("utf-16"))
    assert "not UTF-8" in refusal(path)
    with path.open("wb") as file:
        file.truncate(17 * 2**20)
    assert "at most 16,777,216" in refusal(path)
    assert "cannot read the settings" in refusal(tmp_path / "missing.yaml")
    assert "not a file" in refusal(tmp_path)


def test_files_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(f"{HARMLESS}training: {{<<: *shared, steps: 5}}\n")
    assert read_yaml(path)["training"] == {"steps": 5, "batch_size": 8}
    assert read_yaml(path)["again"] == [[1, 2], [1, 2]]
    path.write_text("a: &a {k: 1}\nx: {y: {b: &b {<<: *a, k: 2}}}\nc: {<<: *b}\n")
    assert read_yaml(path)["x"] == {"y": {"b": {"k": 2}}}  # b is merged into c before it is made itself
    path.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(path) == {"a": 1}
    path.write_text("")
    assert read_yaml(path) is None
    jobs = [f"- {{name: job-{at}, command: report runs/{at}, ask: *ask}}" for at in range(10_000)]
    path.write_text("\n".join(["- &ask {minutes: 5}", *jobs]))
    assert len(read_yaml(path)) == 10_001


def test_anchors_in_a_recipe_still_work(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("training: {steps: &n 300}\ncrop: {size: 16}\nonline: {images: *n}\n")
    _, settings = parse_command("x", "", PretrainSettings, [Positional("run", "")], ["run", "--config", str(recipe)])
    assert settings.training.steps == settings_file(PretrainSettings, recipe).online.images == 300


def test_settings_from_a_checkpoint_are_guarded(tmp_path: Path) -> None:
    """A pickle keeps one list in many places, too."""
    value: Any = ["x"] * 9
    for _ in range(8):
        value = [value] * 9
    file = tmp_path / "checkpoint.pt"
    torch.save({"settings": {"backbone": {"arguments": {"a": value}}}}, file)
    stored = torch.load(file, weights_only=True)
    with pytest.raises(UserError, match=r"^here: its aliases repeat"):
        settings_from(PretrainSettings, stored["settings"], "here")
    with pytest.raises(UserError, match=r"^here: its aliases repeat"):
        settings_from(PretrainSettings, {"backbone": {"arguments": ALIASES}}, "here")


def test_a_run_whose_settings_are_a_bomb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "settings.yaml").write_text(ALIASES)
    with pytest.raises(UserError, match="no readable settings"):
        run_settings(tmp_path)
    assert pretint.cli.main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
