"""A file that only grows: what is whole is kept, what a kill cut short is not."""

from pathlib import Path

import numpy as np
import pytest

from pretext.errors import UserError
from pretint.colorization.scores.ledger import Ledger, slug

WHO = {"images": "x", "size": 64}


def filled(folder: Path, width: int = 3) -> Ledger:
    ledger = Ledger(folder, "a method", WHO, width)
    ledger.add([{"index": 4, "value": 1.5}, {"index": 2, "value": 2}], np.arange(6, dtype=np.float32).reshape(2, 3))
    ledger.add([{"index": 9, "value": 3}], np.full((1, 3), 9, np.float32))
    return ledger


def test_it_is_there_again(tmp_path: Path) -> None:
    filled(tmp_path)
    again = Ledger(tmp_path, "a method", WHO, 3)
    assert len(again) == 3 and 2 in again and 3 not in again
    assert again[4] == {"index": 4, "value": 1.5}
    assert again.rows([9, 4]).tolist() == [[9, 9, 9], [0, 1, 2]]
    assert again.rows([]).shape == (0, 3)


def test_another_identity_is_another_file(tmp_path: Path) -> None:
    filled(tmp_path)
    assert len(Ledger(tmp_path, "a method", WHO | {"size": 65}, 3)) == 0


@pytest.mark.parametrize("cut", range(1, 40))
def test_any_cut_of_the_end_loses_only_what_is_cut(tmp_path: Path, cut: int) -> None:
    path = filled(tmp_path).path
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    again = Ledger(tmp_path, "a method", WHO, 3)
    assert len(again) == content[:-cut].count(b"\n") - 1
    again.add([{"index": 7, "value": 0}], np.zeros((1, 3), np.float32))
    whole = Ledger(tmp_path, "a method", WHO, 3)
    assert whole.rows([7, 4]).tolist() == [[0, 0, 0], [0, 1, 2]]


def test_a_damaged_record_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = filled(tmp_path).path
    path.write_bytes(path.read_bytes().replace(b'"value": 2', b'"value": 3', 1))
    again = Ledger(tmp_path, "a method", WHO, 3)
    assert 2 not in again and len(again) == 2 and "1 of these scores is damaged" in capsys.readouterr().err
    again.add([{"index": 2, "value": 2}], np.full((1, 3), 7, np.float32))
    whole = Ledger(tmp_path, "a method", WHO, 3)
    assert whole.rows([2, 9]).tolist() == [[7, 7, 7], [9, 9, 9]] and not capsys.readouterr().err


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="cannot be read or written"):
        Ledger(tmp_path / "x", "a", WHO)


def test_names_of_files() -> None:
    assert slug("../runs/x@hints=10") == "runs-x-hints-10"
    assert slug("///") == "x" and len(slug("a" * 500)) == 60
