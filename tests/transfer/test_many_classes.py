"""A thousand and ten thousand classes: only features, classifiers and the scores of some images are held in memory."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import many_classes
import pytest
from many_classes import write_images

pytestmark = pytest.mark.slow  # 10,000 folders of images, and a gigabyte

TRAIN, TEST = 2, 1  # images of a class
BLOCK = 4096  # images whose scores are held at once
CONSTANT = 250e6  # bytes: a batch of images, pieces of held-out scores, resamples, names


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Images of so many classes, written once."""

    @cache
    def write(classes: int) -> Path:
        folder = tmp_path_factory.mktemp(f"classes{classes}")
        write_images(folder, classes, TRAIN, TEST)
        return folder

    return write


@pytest.mark.parametrize(
    ("classes", "command", "protocol", "mode"),
    [
        (1_000, "probe", "modern", "augmented"),
        (1_000, "knn", "knn", "cached"),
        (10_000, "probe", "modern", "cached"),
        (10_000, "probe", "zhang2016", "augmented"),
    ],
)
def test_memory_is_that_of_the_definition(
    folder_of: Callable[[int], Path], classes: int, command: str, protocol: str, mode: str
) -> None:
    folder = folder_of(classes)
    brute = "brute" if classes <= 1_000 else ""
    argv = [sys.executable, many_classes.__file__, folder, command, protocol, mode, brute]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.run(argv, capture_output=True, text=True, env=env)
    assert process.returncode == 0, process.stderr
    report: dict[str, Any] = json.loads(process.stdout)
    assert report["labels"] and report["fit_classes"] == classes, "every class has images to fit to, under its label"
    assert report["n_test"] == TEST * classes
    assert report["n_holdout"] == (TRAIN * classes // 10 if protocol == "modern" else 0)
    assert report["score"] > 5 / classes, "more than chance"
    assert len(json.loads(Path(report["file"]).read_text())["classes"]) == classes
    if brute:  # all scores are in memory
        # The definition is computed in float64: one tie may differ.
        assert report["score"] == pytest.approx(report["top1"], abs=1.5 / report["n_test"])
        return
    limit = report["features"] + report["heads"] + 1.5 * 4 * BLOCK * classes + CONSTANT
    assert report["peak"] < limit
    assert report["peak"] + 4 * report["n_test"] * classes > limit, "the scores of all images would be noticed"
