"""A run directory: who may write to it, with which settings, and what it keeps."""

import multiprocessing
import os
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch

from pretext.engine.checkpoint import load_checkpoint
from pretext.engine.run import (
    checkpoint_to_resume,
    find_checkpoint,
    lock_run,
    newest_checkpoint,
    run_settings,
    write_checkpoint,
)
from pretext.errors import UserError

SETTINGS = {"training": {"lr": 0.1, "betas": [0.9, 0.99]}, "machine": {"workers": 1}, "seed": 0}


def test_settings_are_kept_and_machine_may_change(tmp_path: Path) -> None:
    run = tmp_path / "a" / "run"
    with lock_run(run, SETTINGS):
        assert run_settings(run) == SETTINGS
    moved = {**SETTINGS, "machine": {"workers": 4}}
    with lock_run(run, moved):
        assert run_settings(run) == moved


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with lock_run(tmp_path, SETTINGS):
        write_checkpoint(tmp_path, {"step": 1})
    other = {"training": {"lr": 0.2, "betas": [0.9, 0.99]}, "machine": {"workers": 1}, "seed": 1}
    with (
        pytest.raises(UserError, match=r"seed was 0, is now 1; training\.lr was 0\.1, is now 0\.2"),
        lock_run(tmp_path, other),
    ):
        pass
    assert run_settings(tmp_path) == SETTINGS


def _hold(folder: Path) -> None:
    with pytest.raises(UserError, match="another process"), lock_run(folder, SETTINGS):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with lock_run(tmp_path, SETTINGS):
        process = multiprocessing.get_context("spawn").Process(target=_hold, args=(tmp_path,))
        process.start()
        process.join()
        assert process.exitcode == 0


def _die_before_the_worker(folder: Path, worker: Connection) -> None:
    with lock_run(folder, SETTINGS):
        pid = os.fork()
        if pid == 0:
            time.sleep(3600)  # it is killed below
        worker.send(pid)
        os._exit(0)


def test_workers_that_outlive_a_killed_job_do_not_hold_its_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_die_before_the_worker, args=(tmp_path, sender))
    process.start()
    worker = receiver.recv()
    try:
        process.join()
        with lock_run(tmp_path, SETTINGS):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)


def test_a_folder_of_something_else_is_not_taken(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="no run of Pretint"), lock_run(tmp_path, SETTINGS):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="no run of Pretint"), lock_run(tmp_path / "thesis.tex", SETTINGS):
        pass


def test_the_newest_two_checkpoints_are_kept(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step in (5, 20, 100):
        write_checkpoint(tmp_path, {"step": step, "w": torch.tensor(step)})
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["00000020.pt", "00000100.pt"]
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    state = load_checkpoint(newest)
    assert state["step"] == 100 and state["w"] == 100
    assert find_checkpoint(tmp_path) == newest_checkpoint(tmp_path) == find_checkpoint(newest_checkpoint(tmp_path))  # type: ignore[arg-type]


def test_no_checkpoint_to_find(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run or checkpoint"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(UserError, match="train first"):
        find_checkpoint(tmp_path)
    with pytest.raises(UserError, match="not a run"):
        run_settings(tmp_path)


def test_checkpoints_that_are_not_the_runs_own_are_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    foreign = {folder / name for name in ("9x.pt", "9.pt", "00000004_copy.pt")}
    for path in foreign:
        path.touch()
    assert newest_checkpoint(tmp_path) is None
    for step in (3, 4, 5):
        write_checkpoint(tmp_path, {"step": step})
    assert newest_checkpoint(tmp_path) == folder / "00000005.pt"
    assert set(folder.iterdir()) == {*foreign, folder / "00000004.pt", folder / "00000005.pt"}


@pytest.mark.parametrize("text", ["{}", "training: 5", "training: {}", "training: {steps: x}", "training: {steps: }"])
def test_settings_that_are_needed_are_there_or_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    run_settings(tmp_path)
    with pytest.raises(UserError, match=r"settings\.yaml holds no training\.steps; restore the file"):
        run_settings(tmp_path, {"training.steps": int})
    (tmp_path / "settings.yaml").write_text("training: {steps: 5}")
    assert run_settings(tmp_path, {"training.steps": int}) == {"training": {"steps": 5}}


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for step in (5, 10):
        write_checkpoint(tmp_path, {"step": step, "w": torch.rand(500)})
    older, newest = (tmp_path / "checkpoints" / f"{step:08d}.pt" for step in (5, 10))
    _damage(newest)
    assert find_checkpoint(tmp_path) == find_checkpoint(tmp_path) == older
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and f"{newest}: damaged or cut" in said
    assert said.endswith("; 00000005.pt, the checkpoint before it, is used\n")
    with pytest.raises(UserError, match=f"{newest}: damaged"):  # who names it gets no other
        load_checkpoint(find_checkpoint(newest))
    newest.write_bytes(b"")
    assert find_checkpoint(tmp_path) == older
    assert newest.exists(), "a reader changes nothing"
    _damage(older)
    with pytest.raises(UserError, match=r"begin like a checkpoint.*; .* has no other undamaged checkpoint") as error:
        find_checkpoint(tmp_path)
    assert "\n" not in str(error.value)


def test_a_resumed_run_puts_damaged_checkpoints_aside(tmp_path: Path) -> None:
    assert checkpoint_to_resume(tmp_path) is None
    for step in (5, 10):
        write_checkpoint(tmp_path, {"step": step, "w": torch.rand(500)})
    folder = tmp_path / "checkpoints"
    _damage(folder / "00000010.pt")
    assert checkpoint_to_resume(tmp_path) == newest_checkpoint(tmp_path) == folder / "00000005.pt"
    assert (folder / "00000010.damaged").exists()
    write_checkpoint(
        tmp_path, {"step": 7, "w": torch.rand(500)}
    )  # as where it is stopped before it is as far as it was
    assert sorted(path.name for path in folder.iterdir()) == ["00000005.pt", "00000007.pt", "00000010.damaged"]
    write_checkpoint(tmp_path, {"step": 10, "w": torch.rand(500)})
    assert sorted(path.name for path in folder.iterdir()) == ["00000007.pt", "00000010.pt"]
    for path in folder.iterdir():
        _damage(path)
    with pytest.raises(UserError, match="no other undamaged checkpoint"):
        checkpoint_to_resume(tmp_path)
    assert sorted(path.name for path in folder.iterdir()) == ["00000007.pt", "00000010.pt"]
