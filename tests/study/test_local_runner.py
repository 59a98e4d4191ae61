"""Cells as processes: how many at a time, what fails, and what another process does meanwhile."""

import fcntl
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from waits import wait_until

import pretint.cli
import pretint.study.local_runner
import pretint.study.slurm_runner
from pretext.engine.run import newest_checkpoint
from pretext.engine.signals import ExitStatus
from pretint.study.cells import CellStore, StudyCell, StudyPlan
from pretint.study.expand import expand
from pretint.study.file import read_study
from pretint.study.local_runner import CellStatus, Status, run_here
from slurm import ClusterError
from transfer.results import read_result

Words = dict[tuple[str, int, str], Status]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PRETINT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def plan(small: Path, sets: Path, tmp_path: Path) -> StudyPlan:
    """One seed and one evaluation of the small study: each cell costs the start of a process."""
    study = read_study(small, {"images": str(sets)})
    study.seeds = [0]
    study.variants.pop("random")
    study.evaluations.pop("color")
    study.baseline = ""
    return expand(study, CellStore(tmp_path / "studies"))


def words(plan: StudyPlan, found: dict[str, CellStatus]) -> Words:
    return {(cell.variant, cell.seed, cell.evaluation): found[cell.key].word for cell in plan.cells}


def run(plan: StudyPlan, shelf: CellStore, parallel: int = 2, retry: bool = False) -> tuple[Words, ExitStatus, int]:
    """How all stand in the end, and how many ran at most at the same time."""
    most, found, last = 0, {}, ExitStatus.COMPLETE
    for looked, ending in run_here(plan.cells, shelf, parallel, retry):
        found, last = dict(looked), ending
        most = max(most, [one.word for one in looked.values()].count(Status.RUNNING))
        for cell in plan.cells:  # nothing begins before what it needs
            if cell.after and found[cell.key].word == Status.RUNNING:
                assert found[cell.after].word == Status.FINISHED
    return words(plan, found), last, most


def log(shelf: CellStore, cell: StudyCell) -> str:
    return shelf.file(cell, "log").read_text()


@pytest.mark.slow
def test_a_failure_is_said_blocks_what_needs_it_and_is_tried_again_on_demand(plan: StudyPlan, tmp_path: Path) -> None:
    shelf = CellStore(tmp_path / "studies")
    first, evaluated, other, _ = plan.cells
    assert (first.variant, first.evaluation, evaluated.after) == ("L2", "", first.key)
    plan = replace(plan, cells=(first, evaluated, other))
    occupied = shelf.folder(first)
    occupied.mkdir(parents=True)
    (occupied / "somebody's").write_text("a run must begin in an empty folder")

    found, ending, most = run(plan, shelf)
    assert ending == ExitStatus.COMPLETE and most == 2
    assert found == {
        ("L2", 0, ""): Status.FAILED,
        ("L2", 0, "neighbors"): Status.BLOCKED,
        ("rebalanced", 0, ""): Status.FINISHED,
    }
    failure = shelf.failure(first)
    assert failure and failure.code == 2 and "exists, but is no run of Pretint" in failure.said

    (occupied / "somebody's").unlink()
    begun = log(shelf, first).count("$ pretint")
    again, _, _ = run(plan, shelf)
    assert again == found and log(shelf, first).count("$ pretint") == begun, "not tried again unasked"

    times = {path: path.stat().st_mtime_ns for path in shelf.folder(other).rglob("*.pt")}
    found, _, most = run(plan, shelf, parallel=1, retry=True)
    assert set(found.values()) == {Status.FINISHED} and most == 1 and shelf.failure(first) is None
    assert times and all(path.stat().st_mtime_ns == time for path, time in times.items()), (
        "what was finished is not touched"
    )


@pytest.mark.slow
def test_what_another_process_works_on_is_left_to_it(plan: StudyPlan, tmp_path: Path) -> None:
    shelf = CellStore(tmp_path / "studies")
    first = plan.cells[0]
    lock = shelf.lock(first)
    assert lock is not None and shelf.lock(first) is None
    looks = run_here(plan.cells[:1], shelf, 2, False)
    found, _ = next(looks)
    assert found[first.key].word == Status.ELSEWHERE and not shelf.folder(first).exists()
    os.close(lock)  # it ended, and left the cell as it was
    *_, (found, _) = looks
    assert found[first.key].word == Status.FINISHED and log(shelf, first).count("$ pretint") == 1


@pytest.mark.slow
def test_what_a_cluster_works_on_is_left_to_it(
    plan: StudyPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretint.study.local_runner, "_ASK_EVERY", 0.0)
    shelf, queue = CellStore(tmp_path / "studies"), {plan.cells[0].place}
    looks = run_here(plan.cells[:1], shelf, 2, False, lambda: queue)
    found, _ = next(looks)
    assert found[plan.cells[0].key].word == Status.ELSEWHERE
    queue.clear()
    *_, (found, _) = looks
    assert found[plan.cells[0].key].word == Status.FINISHED


def test_what_was_killed_is_said_to_be(plan: StudyPlan, tmp_path: Path) -> None:
    shelf, first = CellStore(tmp_path / "studies"), plan.cells[0]
    looks = run_here(plan.cells[:1], shelf, 1, False)
    next(looks)
    # It has none for a moment after it began.
    words = ("run", str(shelf.file(first, "call")))
    wait_until(lambda: _with_words(words), "the cell's process is there")
    os.kill(_with_words(words)[0], signal.SIGKILL)
    *_, (found, _) = looks
    assert found[first.key].word == Status.FAILED and found[first.key].said.startswith("killed by signal 9, ")


def _with_words(words: tuple[str, ...]) -> list[int]:
    """Processes that run such a command."""
    processes = [process for process in Path("/proc").iterdir() if process.name.isdigit()]
    return [int(process.name) for process in processes if _words(process)[3:5] == [*words]]


def _words(process: Path) -> list[str]:
    try:
        return (process / "cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


def test_a_silent_cluster_stops_nothing_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf = CellStore(tmp_path)
    answers: list[dict[str, CellStatus] | None] = [
        {"a": CellStatus(Status.RUNNING), "b": CellStatus(Status.FAILED)},
        None,
    ]

    def jobs(_: CellStore) -> dict[str, CellStatus]:
        answer = answers.pop(0)
        if answer is None:
            raise ClusterError("squeue: no answer")
        return answer

    monkeypatch.setattr(pretint.study.slurm_runner, "_jobs", jobs)
    assert list(pretint.study.slurm_runner.queue(shelf)()) == [], "nothing was sent from here"
    shelf.jobs.mkdir()
    ask = pretint.study.slurm_runner.queue(shelf)
    assert set(ask()) == {"a"} and set(ask()) == {"a"}
    assert "squeue: no answer; asking again" in capsys.readouterr().err
    answers.append(None)
    with pytest.raises(ClusterError, match="move that folder away"):
        pretint.study.slurm_runner.queue(shelf)()


def test_a_failure_while_it_waited_is_not_tried_again(plan: StudyPlan, tmp_path: Path) -> None:
    shelf = CellStore(tmp_path / "studies")
    lock = shelf.lock(plan.cells[0])
    assert lock is not None
    looks = run_here(plan.cells[:1], shelf, 2, False)
    next(looks)
    shelf.write_failure(plan.cells[0], 2)  # as the other process notes down
    os.close(lock)
    *_, (found, _) = looks
    assert found[plan.cells[0].key].word == Status.FAILED and not shelf.file(plan.cells[0], "log").exists()


@pytest.mark.slow
def test_the_lock_lasts_as_long_as_the_command(plan: StudyPlan, tmp_path: Path) -> None:
    """Whatever becomes of the study itself."""
    shelf = CellStore(tmp_path / "studies")
    looks = run_here(plan.cells[:1], shelf, 1, False)
    next(looks)
    with shelf.file(plan.cells[0], "lock").open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # this process has closed its own
    for _ in looks:
        pass
    with shelf.file(plan.cells[0], "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls pretint; gives the exit code, standard output and standard error."""

    def call(*given: object) -> tuple[int, str, str]:
        code = pretint.cli.main([str(word) for word in given])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.mark.slow
def test_the_command(said: Callable[..., tuple[int, str, str]], small: Path, sets: Path, tmp_path: Path) -> None:
    """Rehearsed, done, widened, asked for again, and reported."""
    root = tmp_path / "studies"
    text = small.read_text()
    for line in ("  L2: {objective.name: regression}\n", "  random: {network: random}\n", "baseline: random\n"):
        text = text.replace(line, "")  # each cell costs the start of a process
    small.write_text("\n".join(line for line in text.splitlines() if not line.startswith("  color:")))
    call = ("study", small, f"images={sets}", "--folder", root)
    code, out, _ = said("study", "--dry-run", small, "--folder", root, f"images={sets}")
    assert code == 0 and out.count("waiting") == 4 and not root.exists()

    small.write_text(small.read_text().replace("seeds: [0, 1]", "seeds: [0]"))
    code, out, err = said(*call)
    assert code == 0, err
    assert "2 cells, 0 of them finished already" in err
    assert f"report: {root / 'small' / 'report.md'}" in out.splitlines()

    small.write_text(small.read_text().replace("seeds: [0]", "seeds: [0, 1]"))
    code, _, err = said(*call, "--parallel", "2", "--name", "wide")
    assert code == 0 and "4 cells, 2 of them finished already" in err
    assert "rebalanced 0: started" not in err and "rebalanced 1: started" in err
    table = (root / "wide" / "report.md").read_text()

    code, _, err = said(*call, "--name", "wide")
    assert code == 0 and "4 of them finished already" in err
    assert (root / "wide" / "report.md").read_text() == table
    moved = root.rename(tmp_path / "elsewhere")
    code, out, _ = said("report", moved / "wide")
    assert code == 0 and (moved / "wide" / "report.md").read_text() == table


def test_mistakes_are_one_line(
    said: Callable[..., tuple[int, str, str]], small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for given, part in (
        ((tmp_path / "no.yaml",), "cannot read"),
        ((small,), "images=FOLDER"),
        ((small, "images"), "write PLACE=FOLDER"),
        ((small, "images="), "write PLACE=FOLDER"),
        ((small, "photos=x"), "no place of"),
        ((small, f"images={tmp_path}/none"), "none"),
        ((small, "images=x", "--parallel", "0"), "parallel is 0"),
        ((small, "images=x", "--name", "../x"), "not a path"),
        ((small, "images=x", "--paralel", "2"), "the nearest is parallel"),
    ):
        code, out, err = said("study", *given)
        assert code == 2 and not out and err.startswith("pretint: ") and part in err, err
        assert err.count("\n") == 1, err
    assert not Path("studies").exists()


@pytest.mark.slow
def test_a_network_that_was_damaged_is_trained_to_its_end_again(plan: StudyPlan, tmp_path: Path) -> None:
    """Not judged as it was some steps before."""
    cells = [cell for cell in plan.cells if cell.variant == "rebalanced"]
    train, judge = cells
    *_, (found, _) = run_here([train], CellStore(tmp_path / "studies"), 1, False)
    assert found[train.key].word == Status.FINISHED
    newest = newest_checkpoint(tmp_path / "studies" / train.folder)
    assert newest is not None
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    shelf = CellStore(tmp_path / "studies")  # as at the next call
    *_, (found, _) = run_here(cells, shelf, 1, False)
    assert {one.word for one in found.values()} == {Status.FINISHED}
    assert "the checkpoint before it, is used" in log(shelf, train)
    assert [read_result(file).network.step for file in shelf.results(judge)] == [train.steps]
