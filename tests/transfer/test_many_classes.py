"""A thousand and ten thousand classes: only features, classifiers and the scores of some images are held in memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import many_classes
import pytest
from many_classes import write_images

pytestmark = pytest.mark.slow  # 10,000 folders of images, and a gigabyte

TRAIN, TEST = 3, 2  # images of a class
BLOCK = 4096  # images whose scores are held at once
CONSTANT = 250e6  # bytes: a batch of images, pieces of held-out scores, resamples, names


@pytest.fixture(scope="module")
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp(f"classes{request.param}")
    write_images(folder, request.param, TRAIN, TEST)
    return folder, request.param


@pytest.mark.parametrize(
    ("images", "command", "protocol", "mode"),
    [
        (1_000, "probe", "modern", "cached"),
        (1_000, "probe", "modern", "augmented"),
        (1_000, "knn", "knn", "cached"),
        (10_000, "probe", "modern", "cached"),
        (10_000, "probe", "zhang2016", "augmented"),
    ],
    indirect=["images"],
)
def test_memory_is_that_of_the_definition(images: tuple[Path, int], command: str, protocol: str, mode: str) -> None:
    folder, classes = images
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
