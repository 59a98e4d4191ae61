"""The numbers of progress, for others to read."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

import pretext.engine.progress
from pretext.engine.progress import _Tally, progress


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where progress is told, as a new process does it."""
    file = tmp_path / "progress.json"
    monkeypatch.setenv("PRETINT_PROGRESS", str(file))
    monkeypatch.setattr(_Tally, "_first", {})
    return file


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What ``time.monotonic`` says."""
    now = [1000.0]
    monkeypatch.setattr(pretext.engine.progress.time, "monotonic", lambda: now[0])  # type: ignore[attr-defined]
    return now


def read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@pytest.mark.parametrize("terminal", [False, True])
def test_the_file_keeps_up(
    terminal: bool, told: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    first = {"title": "run", "total": 100, "done": 20}
    with progress("copy", 3, "MB"):
        assert read(told)["title"] == "copy" and not read(told)["first"], "every call does it anew"
    with progress("run", 100, "images", done=20, weight=8) as advance:
        begun = read(told)
        assert abs(begun.pop("time") - time.time()) < 60
        assert begun == {**first, "unit": "images", "rate": None, "left": None, "remark": "", "first": first}
        clock[0] += 1
        advance(10, "early")
        assert read(told)["done"] == 20, "not more often than every two seconds"
        clock[0] += 4
        advance(10, "loss 2.0")
        now = read(told)
        assert (now["done"], now["rate"], now["left"], now["remark"]) == (40, 32.0, 15.0, "loss 2.0")
        advance(5, "last")
    assert (read(told)["done"], read(told)["remark"]) == (45, "last")
    with progress("tests", 3, "tests"):
        assert read(told)["title"] == "tests" and read(told)["first"] == first
    assert list(told.parent.iterdir()) == [told]
    assert ("run" in capsys.readouterr().err) == terminal


def test_a_bar_that_is_broken_off_tells_its_end(told: Path) -> None:
    with pytest.raises(KeyboardInterrupt), progress("run", 9, "steps") as advance:
        advance(4, "")
        raise KeyboardInterrupt
    assert read(told)["done"] == 4


def test_only_the_first_process_tells(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with progress("run", 2, "steps") as advance:
        advance(2, "")
    assert not told.exists()


@pytest.mark.parametrize("name", ["nowhere/progress.json", "/", "file/progress.json"])
def test_that_nobody_can_be_told_does_no_harm(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("PRETINT_PROGRESS", str(tmp_path / name))
    with progress("run", 2, "steps") as advance:
        advance(2, "")
