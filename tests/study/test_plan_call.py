"""What a study was called with: called so again, it is the same."""

import json
import shlex
from pathlib import Path

import pytest
from reported import finished_study

from pretext import plugins
from pretext.settings import Positional, parse_command
from pretint.study import StudyOptions, study, write_study_report
from pretint.study.plan import Call, call_of, read_plan
from tests.reporting import Page

HOSTILE = "about: </pre><script>alert(1)</script>"


def test_the_line_of_a_plan_gives_the_same_plan(
    small: Path, sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretint.study.run.watched", lambda *_: ())  # nothing is computed
    monkeypatch.setattr(plugins, "_contents", {})  # other tests have loaded some
    done = study(small, [f"images={sets}"], StudyOptions(folder=tmp_path / "a b", name="other"))
    kept = call_of(read_plan(done.folder / "plan.json"))
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
    monkeypatch.setattr("pretint.study.run.watched", lambda *_: ())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_contents", {Path("/a b/mine.py"): b"x = 1"})
    (tmp_path / "recipe.yaml").write_text("crop: {size: 16}\n")
    small.write_text(f"config: recipe.yaml\n{small.read_text()}")
    done = study(Path("small.yaml"), [f"images={sets}"], StudyOptions())
    kept = call_of(read_plan(done.folder / "plan.json"))
    assert kept.words == ("study", "small.yaml", f"images={sets}")
    assert kept.files == {"small.yaml": small.read_text(), "recipe.yaml": "crop: {size: 16}\n"}
    assert shlex.split(kept.line)[0] == "PRETINT_PLUGINS=/a b/mine.py"
    assert {len(digest) for digest in kept.plugins.values()} == {64}


def test_the_page_begins_its_commands_with_the_call(tmp_path: Path) -> None:
    folder = finished_study(tmp_path)
    told = json.loads((folder / "plan.json").read_text())
    told["call"] = {
        "words": ["study", "s.yaml", "images=a b"],
        "files": {"s.yaml": HOSTILE, "deep/r.yaml": "crop: {size: 5}"},
        "plugins": {"/mine.py": "ab" * 32},
    }
    told["recipes"] = {"recipes/random-0.abc.yaml": {"backbone": {"name": "<b>tiny</b>"}}}
    (folder / "plan.json").write_text(json.dumps(told))
    write_study_report(folder)
    page = Page(folder / "report.html")
    assert "Commands This study is PRETINT_PLUGINS=/mine.py pretint study s.yaml 'images=a b'" in page.text
    assert HOSTILE in page.text
    assert "script" not in page.tags
    assert "A recipe: deep/r.yaml crop: {size: 5}" in page.text
    assert "recipes/random-0.abc.yaml backbone: name: <b>tiny</b>" in page.text
    assert "Plugin /mine.py: SHA-256 abababababab" in page.text


@pytest.mark.parametrize("damaged", [None, {}, {"words": 3}, {"files": "ab"}, {"plugins": [1]}])
def test_a_plan_that_says_nothing_of_its_call_is_read(tmp_path: Path, damaged: object) -> None:
    folder = finished_study(tmp_path)
    told = json.loads((folder / "plan.json").read_text())
    del told["call"]
    (folder / "plan.json").write_text(json.dumps(told if damaged is None else {**told, "call": damaged}))
    assert call_of(read_plan(folder / "plan.json")) == Call()
    write_study_report(folder)
    page = Page(folder / "report.html")
    assert "This study is" not in page.text
    assert "Each cell is a command" in page.text
