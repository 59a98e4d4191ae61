"""What counts as finished."""

from pathlib import Path

import pytest
from reported import finished_study

import pretint.study.cells
from pretint.study.cells import Shelf
from pretint.study.plan import read_plan
from transfer.results import Result, read_result


@pytest.mark.parametrize("evaluation", ["probe", "color"])
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "another"}', "[" * 100_000, '{"format": "pretint'])
def test_a_damaged_result_is_not_finished_until_it_is_mended(tmp_path: Path, evaluation: str, text: str) -> None:
    plan, shelf = (
        read_plan(finished_study(tmp_path, {"random": 0.3, "L2": 0.4}, (0,), colors=True) / "plan.json"),
        Shelf(tmp_path),
    )
    (cell,) = plan.of("L2", evaluation)
    (file,) = shelf.results(cell)
    whole = file.read_bytes()
    file.write_text(text)
    again = Shelf(tmp_path)  # as at the next call
    assert not again.finished(cell) and str(file) in again.damage(cell)
    file.write_bytes(whole)
    assert again.finished(cell) and not again.damage(cell)


def test_a_whole_result_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, shelf = read_plan(finished_study(tmp_path) / "plan.json"), Shelf(tmp_path)
    read = []

    def counted(path: Path) -> Result:
        read.append(path)
        return read_result(path)

    monkeypatch.setattr(pretint.study.cells, "read_result", counted)
    for _ in range(3):
        assert all(map(shelf.finished, plan.cells))
    assert len(read) == len(set(read)) == 6
