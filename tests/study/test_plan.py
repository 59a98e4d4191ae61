"""A plan comes back as it was written, and a damaged one is a line."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretext.errors import UserError
from pretint.study.plan import PRETRAIN, Cell, Plan, read_plan

PLAN = Plan(
    "Does it matter?",
    ("random", "L2"),
    (0,),
    {"probe": {"command": "probe"}, "color": {"command": "score", "size": 16}},
    {"L2": "random"},
    {"objective.name": {"L2": "regression"}},
    {"recipes/random-0.c.yaml": {"seed": 0}},
    "",
    (
        Cell("a", "L2", 0, "", PRETRAIN, ("pretrain", "runs/L2-0.a"), "runs/L2-0.a", "", 6, {"gpus": 1}),
        Cell("b", "L2", 0, "color", "score", ("score", "runs/L2-0.a"), "results/L2-0.color.b", "a"),
        Cell("c", "random", 0, "probe", "probe", ("probe", "random:r.yaml"), "results/random-0.probe.c", ""),
    ),
)


def test_comes_back_as_it_was_written(tmp_path: Path) -> None:
    PLAN.write(tmp_path / "plan.json")
    assert read_plan(tmp_path / "plan.json") == PLAN


def damaged(where: str, value: Any) -> str:
    """The plan as JSON with something else in one place: "cells.0.words"."""
    plan = json.loads(json.dumps(PLAN, default=vars))
    *path, last = where.split(".")
    inner = plan
    for key in path:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[last] = value
    return json.dumps(plan)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "[" * 100_000, "{}", '{"cells": 3}',
        damaged("variants", [1, 2]), damaged("variants", "abc"),
        damaged("seeds", ["0"]), damaged("seeds", 0),
        damaged("evaluations", []), damaged("evaluations", {"probe": "x"}), damaged("evaluations", {}),
        damaged("evaluations.probe", {}), damaged("evaluations.probe", {"command": "score"}),
        damaged("evaluations.color", {"command": "probe"}),
        damaged("against", []), damaged("against", {"L2": 5}),
        damaged("differing", "x"), damaged("differing", {"a": 5}),
        damaged("recipes", []), damaged("figures", 5), damaged("about", 5), damaged("unknown", 5),
        damaged("cells", {}), damaged("cells", [5]),
        damaged("cells.0.folder", 5), damaged("cells.0.folder", "/etc"), damaged("cells.0.folder", "runs/../../x"),
        damaged("cells.0.folder", "runs/.."), damaged("cells.0.folder", "../runs"), damaged("cells.0.folder", ""),
        damaged("cells.0.words", [5]), damaged("cells.0.words", "pretrain"),
        damaged("cells.0.steps", "4"), damaged("cells.0.steps", True), damaged("cells.0.seed", None),
        damaged("cells.0.command", "probe"), damaged("cells.0.ask", []), damaged("cells.0.unknown", 5),
        damaged("cells.1.after", "nobody"), damaged("cells.1.after", ""), damaged("cells.1.evaluation", "nobody"),
    ],
)  # fmt: skip
def test_a_damaged_one_is_a_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan\.json: no study's plan, or a damaged one \(.+\); call pretint study"):
        read_plan(tmp_path / "plan.json")
