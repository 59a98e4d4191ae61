"""A study's file: what it says, and one line for everything that is wrong with it."""

from pathlib import Path

import pytest

from pretext.errors import UserError
from pretint.study.file import StudySettings, read_study


def test_variants_are_multiplied_by_the_grid() -> None:
    study = StudySettings(
        settings={"training": {"steps": 5}, "objective.uniform": 0.1},
        variants={"random": {"network": "random"}, "L2": {"objective": {"name": "regression"}}, "full": {}},
        grid={"objective.uniform": [0.0, 0.5], "crop.size": [64, 96]},
    )
    names = [variant.name for variant in study.expanded]
    points = [f"uniform={uniform} size={size}" for uniform in ("0", "0.5") for size in (64, 96)]
    assert names == ["random", *(f"{family} {point}" for family in ("L2", "full") for point in points)]
    last = study.expanded[-1]
    assert last.family == "full" and last.settings == {
        "training.steps": 5,
        "objective.uniform": 0.5,
        "crop.size": 96,
    }, "the grid wins over what all share"
    assert study.expanded[1].settings["objective.name"] == "regression"


def test_a_grid_alone() -> None:
    study = StudySettings(grid={"seed_of_nothing": [1, 2]})
    assert [variant.name for variant in study.expanded] == ["seed_of_nothing=1", "seed_of_nothing=2"]


def test_places_and_recipes(small: Path) -> None:
    (small.parent / "recipes").mkdir()
    (small.parent / "recipes" / "mine.yaml").write_text("seed: 3\n")
    small.write_text(small.read_text() + "config: recipes/../recipes/mine.yaml\n")
    study = read_study(small, {"images": "/some/where"})
    assert study.config == str(small.parent / "recipes" / "mine.yaml"), "found from the study's file"
    assert study.settings["data.source"] == "/some/where/train"
    assert study.evaluations["neighbors"]["test"] == "/some/where/test"
    assert [variant.config for variant in study.expanded] == [study.config] * 3


BAD = {
    "no file": ("", "nowhere.yaml", "cannot read"),
    "no YAML": ("variants: [", "", "not valid YAML"),
    "no study": ("- a\n", "", "holds no settings"),
    "unknown setting": ("variantes: {a: {}}\n", "", "the nearest is variants"),
    "no variants": ("about: x\n", "", "variants: none"),
    "variants are a list": ("variants: [a]\n", "", "variants must be names"),
    "a variant is a word": ("variants: {a: regression}\n", "", "a is 'regression'"),
    "a name with a slash": ("variants: {../a: {}}\n", "", "use at most 60 letters"),
    "no seeds": ("variants: {a: {}}\nseeds: []\n", "", "whole numbers"),
    "a seed twice": ("variants: {a: {}}\nseeds: [1, 1]\n", "", "each once"),
    "a negative seed": ("variants: {a: {}}\nseeds: [-1]\n", "", "whole numbers"),
    "a grid without values": ("grid: {training.steps: []}\n", "", "give values"),
    "a grid with a value twice": ("grid: {training.steps: [1, 1]}\n", "", "each once"),
    "two variants of one name": (
        "variants: {a steps=1: {network: random}, a: {}}\ngrid: {training.steps: [1]}\n",
        "",
        "two variants are called a steps=1",
    ),
    "no such baseline": ("variants: {a: {}}\nbaseline: b\n", "", "which is no variant; there are a"),
    "no such opponent": ("variants: {a: {against: b}}\n", "", "which is no variant"),
    "colors against nobody": ("variants: {a: {}}\nevaluations: {e: {against: b}}\n", "", "against b, which is no"),
    "an evaluation of nobody": ("variants: {a: {}}\nevaluations: {e: {variants: [b]}}\n", "", "b is no variant"),
    "variants that are none": ("variants: {a: {}}\nevaluations: {e: {variants: []}}\n", "", "variants is empty"),
    "variants that are a number": ("variants: {a: {}}\nevaluations: {e: {variants: 5}}\n", "", "a list of names"),
    "variants that are a word": ("variants: {a: {}}\nevaluations: {e: {variants: a}}\n", "", "a list of names"),
    "a row that is a list": ("variants: {a: {}}\nevaluations: {e: {row: [x]}}\n", "", "row is ['x']"),
    "asking for a number": ("variants: {a: {ask: 5}}\n", "", "ask is 5"),
    "a grid of a number": ("grid: {5: [1]}\n", "", "5 is no name"),
    "two of one name": ("variants: {1: {}, '1': {}}\n", "", "two have the same name"),
    "a grid without an end": (
        f"grid: {{a: {list(range(200))}, b: {list(range(200))}}}\n",
        "",
        "40,000 variants; at most 10,000",
    ),
    "a place without a folder": ('variants: {a: {}}\nfigures: "{x}"\nplaces: {x: ""}\n', "", "x=FOLDER"),
    "a place that is not named": ('variants: {a: {}}\nfigures: "{y}"\n', "", "place y has no folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_one_line(case: str, tmp_path: Path) -> None:
    text, name, part = BAD[case]
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        read_study(tmp_path / name if name else file)
    assert part in str(error.value) and "\n" not in str(error.value), error.value


def test_a_pattern_of_channels_is_no_place(small: Path) -> None:
    small.write_text(small.read_text().replace('"{images}/train"', '"channels:a,b:{images}/{id}_{channel}.tif"'))
    source = read_study(small, {"images": "/some/where"}).settings["data.source"]
    assert source == "channels:a,b:/some/where/{id}_{channel}.tif"


def test_an_unknown_place_is_refused(small: Path) -> None:
    with pytest.raises(UserError, match=r"imagenet: .* has no place of this name \(images\)"):
        read_study(small, {"imagenet": "x"})


def test_places_may_be_anywhere(tmp_path: Path) -> None:
    """In the keys of a mixture, in the name of the recipe, and with letters of any size."""
    (tmp_path / "mine.yaml").write_text("seed: 3\n")
    file = tmp_path / "study.yaml"
    file.write_text(
        'config: "{Where}/mine.yaml"\nsettings: {data.source: {"{Where}/a": 0.5, "{Where}/b": 0.5}}\n'
        'variants: {1: {}}\nplaces: {Where: ""}\nbaseline: 1\n'
    )
    study = read_study(file, {"Where": str(tmp_path)})
    assert study.config == str(tmp_path / "mine.yaml") and study.baseline == "1"
    assert study.settings["data.source"] == {f"{tmp_path}/a": 0.5, f"{tmp_path}/b": 0.5}
