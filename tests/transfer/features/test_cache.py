"""A cache entry: blocks of rows, damage of every kind, nothing wrong ever read back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import transfer.features.cache
from pretext.errors import UserError
from pretext.store import key_of
from transfer.features.cache import Entry, Storage, lock_entry, require_room

COLUMNS = {"conv1": 3, "conv2": 70_000}
ROWS = 40
IDENTITY = {"weights": "abc", "view": [16, 1.0]}


def numbers(column: str, first: int, last: int, storage: Storage = "float16") -> NDArray[np.floating]:
    rng = np.random.default_rng(len(column) + COLUMNS[column])
    return rng.random((ROWS, COLUMNS[column]))[first:last].astype(storage)


def fill(folder: Path, rows: int = ROWS, storage: Storage = "float16") -> Path:
    """An entry with blocks of ten rows; where it lies."""
    with lock_entry(folder, IDENTITY, ROWS, COLUMNS, storage) as entry:
        while entry.done < rows:
            first, last = entry.done, entry.done + 10
            skipped = [(first + 1, f"{first + 1}.png", "torn")]
            entry.append({name: numbers(name, first, first + 5, storage) for name in COLUMNS}, skipped, 1.0)
            entry.append({name: numbers(name, first + 5, last, storage) for name in COLUMNS}, [], 0.5)
            assert entry.done == first and entry.written == last
            entry.flush()
    return entry.folder


def rows_left(folder: Path) -> int:
    with lock_entry(folder, IDENTITY, ROWS, COLUMNS, "float16") as entry:
        return entry.done


@pytest.mark.parametrize("storage", ["float16", "float32"])
def test_what_is_written_is_read(tmp_path: Path, storage: Storage) -> None:
    place = fill(tmp_path, storage=storage)
    assert place.name == key_of(IDENTITY)
    with lock_entry(tmp_path, IDENTITY, ROWS, COLUMNS, storage) as entry:
        assert entry.done == ROWS and entry.missing_bytes == 0
        assert sum(block.seconds for block in entry.blocks) == 6.0
        assert [skip for block in entry.blocks for skip in block.skipped][1] == (11, "11.png", "torn")
    for column in COLUMNS:
        matrix, expected = entry.matrix(column), numbers(column, 0, ROWS, storage)
        assert matrix.dtype == storage and matrix.shape == expected.shape and matrix.nbytes == expected.nbytes
        assert (np.array(matrix) == expected).all()
        chosen = np.random.default_rng(0).permutation(ROWS)
        assert (matrix[chosen] == expected[chosen]).all() and (matrix[7:33:3] == expected[7:33:3]).all()
        files = sorted(place.glob(f"*.{column}.*"))
        assert b"".join(file.read_bytes() for file in files) == expected.tobytes()


def cut_file(place: Path) -> None:
    (file,) = place.glob("000000020-*.conv2.*")
    file.write_bytes(file.read_bytes()[:-100])


def flip_a_bit(place: Path) -> None:
    (file,) = place.glob("000000020-*.conv1.*")
    content = bytearray(file.read_bytes())
    content[30] ^= 1
    file.write_bytes(content)


def change_a_reason(place: Path) -> None:
    (file,) = place.glob("000000020-*.block.*")
    file.write_text(file.read_text().replace("torn", "worn"))


def lose(pattern: str) -> Callable[[Path], None]:
    def remove(place: Path) -> None:
        (file,) = place.glob(pattern)
        file.unlink()

    return remove


DAMAGES: list[tuple[Callable[[Path], object], int]] = [
    (cut_file, 20),
    (flip_a_bit, 20),
    (change_a_reason, 20),
    (lose("000000020-*.block.*"), 20),
    (lose("000000020-*.conv1.*"), 20),
    (lose("000000000-*.conv2.*"), 0),
    (lambda place: (place / "identity.json").write_text("{}"), 0),
    (lambda place: (place / "identity.json").unlink(), 0),
    (lambda place: (place / "identity.json").write_bytes(b"\xff\x00"), 0),
]


@pytest.mark.parametrize(("damage", "good"), DAMAGES)
def test_what_is_damaged_is_computed_again_from_there(
    tmp_path: Path, damage: Callable[[Path], object], good: int, capsys: pytest.CaptureFixture[str]
) -> None:
    place = fill(tmp_path)
    whole = {path.name: path.read_bytes() for path in place.iterdir()}
    damage(place)
    assert rows_left(tmp_path) == good
    said = capsys.readouterr().err
    assert said.count("\n") <= 1
    assert rows_left(tmp_path) == good and not capsys.readouterr().err  # said once
    fill(tmp_path)
    assert {path.name: path.read_bytes() for path in place.iterdir()} == whole


def test_damage_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = fill(tmp_path)
    flip_a_bit(place)
    rows_left(tmp_path)
    assert f"{place}: 1 file of these cached features is damaged" in capsys.readouterr().err
    (place / "identity.json").write_text("{}")
    rows_left(tmp_path)
    assert f"{place}: these cached features are damaged" in capsys.readouterr().err


def test_rows_that_are_not_safe_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = fill(tmp_path, rows=20)
    (place / ".conv1.part").write_bytes(b"as a kill leaves it")
    with lock_entry(tmp_path, IDENTITY, ROWS, COLUMNS, "float16") as entry:
        entry.append({name: numbers(name, 20, 30) for name in COLUMNS}, [], 1.0)
    assert rows_left(tmp_path) == 20
    assert not capsys.readouterr().err and not list(place.glob(".*.part"))
    fill(tmp_path)
    assert rows_left(tmp_path) == ROWS


def test_what_another_process_has_mapped_stays(tmp_path: Path) -> None:
    place = fill(tmp_path)
    with lock_entry(tmp_path, IDENTITY, ROWS, COLUMNS, "float16") as entry:
        matrix = entry.matrix("conv2")
        flip_a_bit(place)
    assert rows_left(tmp_path) == 20
    assert (np.array(matrix) == numbers("conv2", 0, ROWS)).all()


def test_keep_before(tmp_path: Path) -> None:
    fill(tmp_path)
    with lock_entry(tmp_path, IDENTITY, ROWS, COLUMNS, "float16") as entry:
        entry.keep_before(29)
        assert entry.done == 20
    assert rows_left(tmp_path) == 20


def test_a_block_is_closed_by_rows_or_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half() -> Entry:
        entry.append({name: numbers(name, entry.written, entry.written + 5) for name in COLUMNS}, [], 1.0)
        return entry

    with lock_entry(tmp_path, IDENTITY, ROWS, COLUMNS, "float16") as entry:
        assert not entry.due() and not half().due()
        monkeypatch.setattr(transfer.features.cache, "ROWS", 10)
        assert half().due()
        entry.flush()
        assert not entry.due() and not half().due()
        monkeypatch.setattr(transfer.features.cache, "SECONDS", 0.0)
        assert entry.due()


def test_too_little_room_is_said_at_the_start(tmp_path: Path) -> None:
    with (
        lock_entry(tmp_path, IDENTITY, 10**9, {"conv1": 10**7}, "float32") as entry,
        pytest.raises(UserError, match=r"4e\+07 GB"),
    ):
        require_room(tmp_path, [entry])


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="name another cache folder"),
        lock_entry(tmp_path / "file", IDENTITY, ROWS, COLUMNS, "float16"),
    ):
        pass
