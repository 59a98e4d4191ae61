"""The cells of a study: what counts as finished, and the plan that names them."""

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from finished_studies import finished_study
from html_page import Page

import pretint.study.cells
from pretext import plugins
from pretext.errors import UserError
from pretext.settings import Positional, parse_command
from pretext.store import seal, unseal
from pretint.study import StudyOptions, study, write_study_report
from pretint.study.cells import PRETRAIN, CellStore, StudyCell, StudyPlan, read_plan
from transfer.results import Result, read_result


@pytest.mark.parametrize("evaluation", ["probe", "color"])
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "another"}', '{"format": "pretint'])
def test_a_damaged_result_is_not_finished_until_it_is_mended(tmp_path: Path, evaluation: str, text: str) -> None:
    plan, shelf = (
        read_plan(finished_study(tmp_path, {"random": 0.3, "L2": 0.4}, (0,), colors=True) / "plan.json"),
        CellStore(tmp_path),
    )
    (cell,) = plan.of("L2", evaluation)
    (file,) = shelf.results(cell)
    whole = file.read_bytes()
    file.write_text(text)
    again = CellStore(tmp_path)  # as at the next call
    assert not again.is_finished(cell) and str(file) in again.damage(cell)
    file.write_bytes(whole)
    assert again.is_finished(cell) and not again.damage(cell)


def test_a_whole_result_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, shelf = read_plan(finished_study(tmp_path) / "plan.json"), CellStore(tmp_path)
    read = []

    def counted(path: Path) -> Result:
        read.append(path)
        return read_result(path)

    monkeypatch.setattr(pretint.study.cells, "read_result", counted)
    for _ in range(3):
        assert all(map(shelf.is_finished, plan.cells))
    assert len(read) == len(set(read)) == 6


def plain(command: str, argument: object) -> dict[str, Any]:
    return {"command": command, "positionals": [argument], "settings": {"seed": 3}, "line": f"pretint {command} ..."}


PLAN = StudyPlan(
    "Does it matter?",
    ("random", "L2"),
    (0,),
    {"probe": {"command": "probe"}, "color": {"command": "score", "size": 16}},
    {"L2": "random"},
    {"objective.name": {"L2": "regression"}},
    {"recipes/random-0.c.yaml": {"seed": 0}},
    "",
    (
        StudyCell("a", "L2", 0, "", plain(PRETRAIN, "runs/L2-0.a"), "runs/L2-0.a", "", 6, {"gpus": 1}),
        StudyCell("b", "L2", 0, "color", plain("score", ["runs/L2-0.a"]), "results/L2-0.color.b", "a"),
        StudyCell("c", "random", 0, "probe", plain("probe", ["random:r.yaml"]), "results/random-0.probe.c", ""),
    ),
)


def test_comes_back_as_it_was_written(tmp_path: Path) -> None:
    PLAN.write(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == PLAN


@pytest.mark.parametrize("changed", [{"unknown": 5}, {"cells": None}, {"call": None}, None])
def test_one_of_another_version_is_a_line(tmp_path: Path, changed: dict[str, Any] | None) -> None:
    if changed is not None:
        plan = asdict(PLAN) | changed
        (tmp_path / "plan.json").write_bytes(seal({name: value for name, value in plan.items() if value is not None}))
    with pytest.raises(
        UserError, match=r"plan\.json: not the plan of a study of this version \(.+\); run pretint study"
    ):
        read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b"{}", None])
def test_a_damaged_plan_is_a_line(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "plan.json"
    PLAN.write(file)
    file.write_bytes(file.read_bytes().replace(b"L2", b"L1") if content is None else content)
    with pytest.raises(
        UserError, match=r"plan\.json: not the plan of a study of this version \(.+\); run pretint study"
    ):
        read_plan(file)


HOSTILE = "about: </pre><script>alert(1)</script>"


def test_the_line_of_a_plan_gives_the_same_plan(
    small: Path, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretint.study.run.show", lambda *_: ())  # nothing is computed
    monkeypatch.setattr(plugins, "_contents", {})  # other tests have loaded some
    done = study(small, [f"images={sets}"], StudyOptions(folder=tmp_path / "a b", name="other"))
    kept = read_plan(done.folder / "plan.json").call
    assert kept.files == {str(small): small.read_text()}
    assert kept.plugins == {}
    pretint, command, *words = shlex.split(kept.line)
    assert (pretint, command) == ("pretint", "study")
    asked = [Positional("file", ""), Positional("places", "", nargs="*", kind=str)]
    (file, places), options = parse_command("pretint study", "", StudyOptions, asked, words)
    assert options == StudyOptions(folder=tmp_path / "a b", name="other")
    options.dry_run = True
    assert study(Path(file), places, options).plan == done.plan


def test_recipes_that_are_named_are_kept_and_usual_options_are_not(
    small: Path, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretint.study.run.show", lambda *_: ())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_contents", {Path("/a b/mine.py"): b"x = 1"})
    (tmp_path / "recipe.yaml").write_text("crop: {size: 16}\n")
    small.write_text(f"config: recipe.yaml\n{small.read_text()}")
    done = study(Path("small.yaml"), [f"images={sets}"], StudyOptions())
    kept = read_plan(done.folder / "plan.json").call
    assert kept.command == f"pretint study small.yaml images={sets}"
    assert kept.files == {"small.yaml": small.read_text(), "recipe.yaml": "crop: {size: 16}\n"}
    assert shlex.split(kept.line)[0] == "PRETINT_PLUGINS=/a b/mine.py"
    assert {len(digest) for digest in kept.plugins.values()} == {64}


def test_the_page_begins_its_commands_with_the_call(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    told = unseal((folder / "plan.json").read_bytes())
    told["call"] = {
        "command": "pretint study s.yaml 'images=a b'",
        "files": {"s.yaml": HOSTILE, "deep/r.yaml": "crop: {size: 5}"},
        "plugins": {"/mine.py": "ab" * 32},
    }
    told["recipes"] = {"recipes/random-0.abc.yaml": {"backbone": {"name": "<b>tiny</b>"}}}
    (folder / "plan.json").write_bytes(seal(told))
    write_study_report(folder)
    page = Page(folder / "report.html")
    assert "Commands This study is PRETINT_PLUGINS=/mine.py pretint study s.yaml 'images=a b'" in page.text
    assert HOSTILE in page.text
    assert "script" not in page.tags
    assert "A recipe: deep/r.yaml crop: {size: 5}" in page.text
    assert "recipes/random-0.abc.yaml backbone: name: <b>tiny</b>" in page.text
    assert "Plugin /mine.py: SHA-256 abababababab" in page.text
