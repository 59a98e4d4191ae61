"""Artifacts: a kill at any moment leaves whole parts, and no damage is read back."""

import errno
import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import pytest
from waits import wait_until

from pretext.errors import UserError
from pretext.store import LOCK, Artifact, Log, PartWriter, key_of, lock, read_table, seal, unseal, write_table

IDENTITY = {"weights": "abc", "view": [16, 1.0]}


def make(folder: Path, identity: dict[str, object] = IDENTITY) -> Artifact:
    return Artifact(folder, identity, "test parts", "name another folder")


def content(number: int) -> bytes:
    return random.Random(number).randbytes(20_000)


def fill(folder: Path, parts: int, pause: float = 0.0) -> None:
    """Write the parts that are missing, each in two pieces."""
    artifact = make(folder)
    with artifact.open("making test parts"):
        done = artifact.parts()
        artifact.keep(done.values())
        for number in range(parts):
            if f"{number:03}" not in done:
                writer = PartWriter(folder, f"{number:03}")
                writer.write(content(number)[:7_000])
                time.sleep(pause)
                writer.write(content(number)[7_000:])
                writer.commit(f"{number:03}", "bin")


def names(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_parts_are_read_back_by_name(tmp_path: Path) -> None:
    fill(tmp_path / "a", 3)
    fill(tmp_path / "b", 3)
    assert names(tmp_path / "a") == names(tmp_path / "b"), "the same parts are the same files"
    parts = make(tmp_path / "a").parts()
    assert [path.read_bytes() for path in parts.values()] == [content(number) for number in range(3)]
    assert list(parts) == ["000", "001", "002"]


def test_the_key_is_a_hash_of_the_identity() -> None:
    assert key_of({"a": 1, "b": [2.0, "c"]}) == key_of({"b": [2.0, "c"], "a": 1}) == "c82109ba4ccb17fd2665f4ec5043e158"
    assert key_of({"a": 1}) != key_of({"a": 2})


def test_another_identity_removes_the_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("not a part")
    other = make(tmp_path, {"weights": "def"})
    with other.open("making test parts"):
        assert not other.parts()
    assert "these test parts were made from other inputs (weights, view); making" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "identity.json", "notes.txt"]


def test_no_flipped_bit_is_read_back(tmp_path: Path) -> None:
    fill(tmp_path, 3)
    drawn = random.Random(0)
    files = [path for path in tmp_path.iterdir() if path.name != ".lock"]
    for _ in range(100):
        path = drawn.choice(files)
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[drawn.randrange(len(whole))] ^= 1 << drawn.randrange(8)
        path.write_bytes(flipped)
        if path.name == "identity.json":
            with pytest.raises(ValueError):
                unseal(bytes(flipped))
        else:
            assert path not in make(tmp_path).parts().values()
        path.write_bytes(whole)
    assert len(make(tmp_path).parts()) == 3


def _hold(folder: Path, seconds: float) -> None:
    with lock(folder / LOCK, "holding it"):
        (folder / "held").touch()
        time.sleep(seconds)
        (folder / "held").unlink()


def test_a_second_process_waits_or_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(tmp_path, 0.5))
    process.start()
    wait_until((tmp_path / "held").exists, "it holds the lock")
    with (
        pytest.raises(UserError, match="another process is writing; wait for it or stop it"),
        lock(tmp_path / LOCK, "writing"),
    ):
        pass
    with pytest.raises(InterruptedError), lock(tmp_path / LOCK, "writing", wait=True, check=_interrupt):
        pass
    with lock(tmp_path / LOCK, "writing", wait=True):
        assert not (tmp_path / "held").exists()
    assert capfd.readouterr().err.count(f"{tmp_path}: another process is writing; waiting for it\n") == 2
    process.join()


def _interrupt() -> None:
    raise InterruptedError


def test_an_artifact_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write there .*; name another folder"),
        make(tmp_path / "file").open("making test parts"),
    ):
        pass
    (tmp_path / "parts" / "identity.json").mkdir(parents=True)
    with (
        pytest.raises(UserError, match=r"test parts cannot be read .*; remove the folder, or name another"),
        make(tmp_path / "parts").open("making test parts"),
    ):
        pass


def test_a_part_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        writer = PartWriter(tmp_path, "a")
        writer._file.close()
        writer._file = full
        writer.write(b"x")
        with pytest.raises(OSError) as error:
            writer.commit("a", "bin")
        assert error.value.errno == errno.ENOSPC
        writer.close()
    assert not list(tmp_path.iterdir())


def test_a_log_keeps_what_is_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.jsonl"
    for number in range(20):
        Log(path, IDENTITY, "numbers").append([{"number": number, "text": "é\n"}])
    content = path.read_bytes()
    drawn = random.Random(0)
    for _ in range(100):
        flipped = bytearray(content)
        flipped[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
        path.write_bytes(flipped)
        records = Log(path, IDENTITY, "numbers").records
        assert all(record in [{"number": n, "text": "é\n"} for n in range(20)] for record in records)
        assert len(records) in (0, 18, 19)
        assert "making them again" in capsys.readouterr().err or not flipped.endswith(b"\n")
    for cut in range(1, 200):
        path.write_bytes(content[:-cut])
        records = Log(path, IDENTITY, "numbers").records
        assert [record["number"] for record in records] == list(range(content[:-cut].count(b"\n") - 1))
    assert not capsys.readouterr().err, "what a kill cut short is no damage"
    Log(path, {"weights": "def"}, "numbers")
    assert (
        "these numbers were made from other inputs (weights, view); making" in capsys.readouterr().err
        and not Log(path, {"weights": "def"}, "numbers").records
    )


def test_a_table_is_read_back_or_made_again(tmp_path: Path) -> None:
    path, drawn = tmp_path / "table", random.Random(0)
    columns = {"a": np.arange(5), "none": np.zeros(0), "b": np.array([1, 2, 3], np.uint8)}
    write_table(path, IDENTITY, columns, {"count": 3})
    for identity in (IDENTITY, None):
        table = read_table(path, identity)
        assert table is not None and table[1] == {"count": 3} and table[0].keys() == columns.keys()
        assert all(np.array_equal(table[0][name], columns[name]) for name in columns)
        assert all(table[0][name].dtype == columns[name].dtype for name in columns)
    assert read_table(path, {"weights": "def"}) is None and read_table(tmp_path / "nowhere", IDENTITY) is None
    content = path.read_bytes()
    for _ in range(100):
        flipped = bytearray(content)
        flipped[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
        path.write_bytes(flipped)
        assert read_table(path, IDENTITY) is None
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        assert read_table(path, IDENTITY) is None


def test_records() -> None:
    record = {"format": "test 1", "values": [1, 2.5, None, "é"], "inner": {"b": 1, "a": 2}}
    assert unseal(seal(record)) == record
    for damage in (b"", b"{}", b"[]", b"\xff", seal(record).replace(b"2.5", b"2.6"), seal(record)[:-3]):
        with pytest.raises(ValueError):
            unseal(damage)
