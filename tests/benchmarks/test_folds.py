"""Folds as list files, and results pooled over them."""

from pathlib import Path

import numpy as np
import pytest
from finished_studies import finished_study

from benchmarks.folds import pool, write
from pretext.data import open_labeled
from pretint.study.cells import PLAN, CellStore, read_plan
from transfer.results import read_result


def test_each_image_is_a_test_image_of_one_fold(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for label in ("a", "b"):
        (images / label).mkdir(parents=True)
        for at in range(7):
            (images / label / f"{at}.png").write_bytes(b"")
    write(str(images), tmp_path / "lists", 3, (2, 9))
    tested: list[str] = []
    for fold in range(3):
        lists = tmp_path / "lists" / f"fold{fold}"
        test, few, all_others = (open_labeled(f"list:{lists / name}:{images}") for name in (
            "test.txt", "train-2.txt", "train-9.txt"
        ))  # fmt: skip
        keys = [{source.key(at) for at in range(len(source))} for source in (test, few, all_others)]
        assert keys[1] < keys[2] and not keys[0] & keys[2] and len(keys[0] | keys[2]) == 14
        assert few.labels.tolist() == [0, 0, 1, 1] and few.classes == ["a", "b"]
        tested += keys[0]
    assert len(tested) == len(set(tested)) == 14


def test_numbers_are_over_all_folds(tmp_path: Path) -> None:
    plan = read_plan(finished_study(tmp_path, {"random": 0.3, "L2": 0.6}, (0, 1)) / PLAN)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        plan.write(tmp_path / name / PLAN)
    shelf, shares = CellStore(tmp_path), {}
    for variant in ("random", "L2"):
        results = [read_result(*shelf.results(cell)) for cell in plan.of(variant, "probe")]
        shares[variant] = np.mean([result.row(result.best or "").outcomes[0].value for result in results])
    first, second = pool(tmp_path, ("first", "second"), "random")
    assert first[:4] == ["probe", "random", 2, 800] and second[1] == "L2"
    assert first[4] == pytest.approx(100 * shares["random"], abs=0.01) and first[7:] == [0, *first[8:]]
    assert second[7] == pytest.approx(100 * (shares["L2"] - shares["random"]), abs=0.02)
