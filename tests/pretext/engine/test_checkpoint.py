"""Checkpoints are whole or absent, and reading one runs nothing."""

import os
import pickle
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pretext.engine.checkpoint import load_checkpoint, save_checkpoint
from pretext.errors import UserError
from pretext.files import write_atomically


def test_round_trip(tmp_path: Path) -> None:
    state = {"step": 3, "model": {"w": torch.arange(6.0).reshape(2, 3)}, "names": ["a", "b"], "none": None}
    save_checkpoint(tmp_path / "deep" / "x.pt", state)
    loaded = load_checkpoint(tmp_path / "deep" / "x.pt")
    assert torch.equal(loaded["model"].pop("w"), state["model"].pop("w"))  # type: ignore[attr-defined]
    assert {key: loaded[key] for key in state} == state


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk on which no file grows beyond ``size`` bytes: the system refuses the write, as a full one does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    write_atomically(path, b"old")
    with largest_file(1000), pytest.raises(UserError, match=rf"{path}: cannot write 0.1 MB .*call again") as error:
        write_atomically(path, bytes(100_000))
    assert "\n" not in str(error.value)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.geteuid() != 0 and os.environ.get("CI") != "true", reason="mounting needs root")
def test_a_really_full_disk(tmp_path: Path) -> None:
    assert os.system(f"mount -t tmpfs -o size=64k tmpfs {tmp_path}") == 0
    try:
        with pytest.raises(UserError, match="No space left on device"):
            save_checkpoint(tmp_path / "x.pt", {"w": torch.zeros(100_000)})
        assert list(tmp_path.iterdir()) == []
    finally:
        os.system(f"umount {tmp_path}")


def test_an_unwritable_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_atomically(tmp_path / "file" / "x.pt", b"")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {Evil.trace}",)

    trace = ""


@pytest.mark.parametrize("kind", ["empty", "text", "pickle", "torch with code", "torch of another", "torn", "folder"])
def test_what_is_no_checkpoint_is_refused_and_not_run(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.pt"
    Evil.trace = str(tmp_path / "ran")
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("weights")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Evil()))
    elif kind == "torch with code":
        torch.save({"format": "pretint checkpoint 1", "model": Evil()}, path)
    elif kind == "torch of another":
        torch.save({"state_dict": {}}, path)
    elif kind == "torn":
        save_checkpoint(path, {"w": torch.zeros(10_000)})
        path.write_bytes(path.read_bytes()[:20_000])
    else:
        path.mkdir()
    with pytest.raises(UserError, match=str(path)) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
