"""The table of a study that runs."""

import io
from pathlib import Path

import pytest
from finished_studies import finished_study
from rich.console import Console

from pretext.engine.signals import ExitStatus
from pretint.study.cells import CellStore, StudyCell, StudyPlan, read_plan
from pretint.study.local_runner import CellStatus, CellStatuses, Status, initial_states
from pretint.study.run import SoFar, table

FINISHED = CellStatus(Status.FINISHED)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A study with an evaluation whose second seed is missing for one of three variants."""
    return finished_study(tmp_path, without=("rebalanced 1 probe",))


def drawn(
    plan: StudyPlan, folder: Path, found: CellStatuses, ending: ExitStatus = ExitStatus.COMPLETE
) -> dict[str, list[str]]:
    """By the first word of a line, what stands in its other columns."""
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(plan, found, SoFar(plan, CellStore(folder.parent)), ending))
    lines = [line.split("  ") for line in console.export_text().splitlines() if line.strip()]
    return {line[0].strip(): [one.strip() for one in line[1:] if one.strip()] for line in lines}


def cell(plan: StudyPlan, variant: str, evaluation: str, seed: int) -> StudyCell:
    return next(one for one in plan.of(variant, evaluation) if one.seed == seed)


def test_numbers_of_what_is_finished_and_how_far_the_rest_is(folder: Path) -> None:
    plan = read_plan(folder / "plan.json")
    found = initial_states(plan.cells, CellStore(folder.parent))
    lines = drawn(plan, folder, found)
    assert lines[""] == ["pretraining", "probe"]
    assert lines["random"][0] == "-", "random weights are not pretrained"
    assert lines["L2"] == ["2/2", *lines["L2"][1:-1], "2/2"] and float(lines["L2"][1])
    assert lines["rebalanced"] == ["2/2", *lines["rebalanced"][1:-1], "1/2"]
    assert "9 of 10 cells finished" in lines

    missing = cell(plan, "rebalanced", "probe", 1)
    lines = drawn(plan, folder, {**found, missing.key: CellStatus(Status.RUNNING, 0.256, 83.0)}, ExitStatus.INTERRUPTED)
    assert lines["rebalanced"][-1] == "1/2 26%, 1:23"
    (caption,) = [line for line in lines if line.startswith("9 of 10")]
    assert "1 running, stopping: running cells save their state" in caption

    for word, said in ((Status.FAILED, "failed"), (Status.BLOCKED, "blocked")):
        lines = drawn(plan, folder, {**found, missing.key: CellStatus(word)})
        assert lines["rebalanced"][-1] == f"1/2 {said}"
        assert f"9 of 10 cells finished, 1 {word}" in lines
