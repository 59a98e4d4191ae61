"""Checkpoints are whole or absent, and reading one runs nothing."""

import hashlib
import os
import pickle
import random
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from pretext.backbones import build_backbone
from pretext.engine.checkpoint import (
    DamagedFileError,
    check_published,
    check_zip,
    load_checkpoint,
    safetensors_bytes,
    save_checkpoint,
    save_portable,
)
from pretext.errors import UserError
from pretext.files import write_atomically
from pretext.weights.importer import load_release


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
    with (
        largest_file(1000),
        pytest.raises(UserError, match=rf"{path}: cannot write 0.1 MB .*choose another folder") as error,
    ):
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
        torch.save({"format": "pretint checkpoint 2", "model": Evil()}, path)
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


STATE: dict[str, Any] = {
    "step": 3,
    "model": {"w": torch.arange(15.0).reshape(5, 3), "b": torch.ones(()), "h": torch.ones(3, dtype=torch.bfloat16)},
    "color": {"prior": torch.full((4,), 0.25), "step": 10},
    "settings": {"seed": 0},
}


def is_same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_flipped_bit_changes_nothing_or_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    (save_checkpoint if path.suffix == ".pt" else save_portable)(path, STATE)
    content, expected = path.read_bytes(), load_checkpoint(path)
    refused = 0
    for bit in random.Random(0).sample(range(8 * len(content)), 200):
        path.write_bytes(flipped(content, bit))
        try:
            assert is_same(load_checkpoint(path), expected), f"bit {bit % 8} of byte {bit // 8}"
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
    assert refused > 80


def test_a_record_that_is_marked_as_a_folder_is_refused(tmp_path: Path) -> None:
    """Torch would leave the memory of its tensor as it was before, by one flipped bit."""
    path = tmp_path / "x.pt"
    save_checkpoint(path, STATE)
    content = path.read_bytes()
    attributes = content.rindex(b"PK\x01\x02", 0, content.rindex(b"archive/data/0")) + 38
    path.write_bytes(flipped(content, 8 * attributes + 4))
    with pytest.raises(DamagedFileError, match="marked as a folder"):
        load_checkpoint(path)


@pytest.mark.parametrize("read", ["timm", "import"])
def test_weights_from_elsewhere_are_checked_too(read: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    path.write_bytes(flipped(path.read_bytes(), 8 * (path.stat().st_size // 2)))
    with pytest.raises(UserError, match="damaged or cut") as error:
        _ = build_backbone("test_resnet", weights=str(path)) if read == "timm" else load_release(path)
    assert "\n" not in str(error.value)


def test_a_state_dict_for_timm_has_a_digest_and_others_need_none(tmp_path: Path) -> None:
    weights = timm.create_model("test_resnet").state_dict()
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_bytes(weights, {"pretint": "{}"}))
    build_backbone("test_resnet", weights=str(path))
    path.write_bytes(flipped(path.read_bytes(), 8 * (path.stat().st_size - 3)))
    with pytest.raises(UserError, match=r"w\.safetensors: damaged \(the SHA-256"):
        build_backbone("test_resnet", weights=str(path))
    save_file(weights, path)
    build_backbone("test_resnet", weights=str(path))


def test_the_digest_in_a_published_name_is_compared(tmp_path: Path) -> None:
    content = b"any bytes: legacy files have no checksums"
    digest = hashlib.sha256(content).hexdigest()
    assert not digest[:8].isdigit()
    good, wrong = tmp_path / f"net-{digest[:8]}.pth", tmp_path / "net-0badbad0.pth"
    for path in (good, wrong, tmp_path / "net-20240131.pth", tmp_path / "net-rebalanced.pth"):  # a date, and a word
        path.write_bytes(content)
        if path != wrong:
            check_published(path)
    with pytest.raises(DamagedFileError, match=f"begin with 0badbad0, but it begins with {digest[:8]}; download"):
        check_published(wrong)


def test_a_large_file_is_checked_in_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"w": torch.zeros(2**26)}, path)  # 256 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_zip(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DamagedFileError, match="damaged or cut"):
        check_zip(path)


def test_numpy_archives_of_ours_are_stored(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.zeros(10))
    check_zip(tmp_path / "a.npz")
