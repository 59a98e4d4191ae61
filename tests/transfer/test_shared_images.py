"""Images that are both learned from and tested on: counted, said and kept by every job; an error where they are all."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from devkits import save, write_devkit, write_masks
from evaluations import QUICK, write_class_images

from pretext.errors import UserError
from pretext.settings import settings_from
from pretint.cli import main
from transfer.finetune import FinetuneResults, finetune
from transfer.probes.knn import KnnSettings, knn
from transfer.probes.linear import ProbeSettings, probe
from transfer.probes.svm import SvmSettings, svm
from transfer.protocols import PROTOCOLS
from transfer.results import Result, read_result
from transfer.table import TableSettings, format_tables
from transfer.tasks.registry import TASKS, open_task
from transfer.tasks.task import FinetuneSettings


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, in which the results of these tests stand."""
    return Path(shutil.copytree(tiny_run, tmp_path_factory.mktemp("shared") / "run"))


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PROTOCOLS, "modern", QUICK)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """Three test images stand among the training images: under one or another name."""
    train, test = (
        write_class_images(tmp_path / "train", 1, (8, 8, 8)),
        write_class_images(tmp_path / "test", 2, (5, 5, 5)),
    )
    for source, target in (("class0/1", "class0/1"), ("class1/2", "class1/4"), ("class2/0", "class2/0")):
        shutil.copy(train / f"{source}.png", test / f"{target}.png")
    shutil.copy(train / "class2/0.png", train / "class2/9.png")
    return tmp_path


LINE = "test: 3 of 15 test images are also training images, first class0/1.png; they count in the results"

JOBS: dict[str, Callable[[str, Any], list[Result]]] = {
    "probe": lambda run, of: probe([run], ProbeSettings(stages=["conv5"], **of)),
    "knn": lambda run, of: knn([run], KnnSettings(stages=["conv5"], **of)),
    "svm": lambda run, of: svm([run], SvmSettings(stages=["conv5"], **of)),
    "few shots": lambda run, of: svm([run], SvmSettings(protocol="voc07_svm_lowshot", stages=["conv5"], **of)),
    "few labels": lambda run, of: knn([run], KnnSettings(fraction=0.5, stages=["conv5"], **of)),
}


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS)
def test_every_evaluation_counts_them(job: str, run: Path, sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = {"train": str(sets / "train"), "test": str(sets / "test"), "out": str(sets / "out")}
    said = []
    for _ in range(2):  # the second call reads back what is kept
        (result,) = JOBS[job](str(run), {**named, "reference": False, "workers": 0})
        said.append([line for line in capsys.readouterr().err.splitlines() if "also training images" in line])
    assert result.n_shared == 3 and said == [[f"{sets}/{LINE}"]] * 2
    assert read_result(Path(result.file)).n_shared == 3
    text = "\n".join(map(str, format_tables([result], TableSettings(format="markdown"))))
    assert "; test images that are also training images: 3" in text
    rows = list(csv.DictReader(map(str, format_tables([result], TableSettings(format="csv")))))
    assert rows and {row["n_shared"] for row in rows} == {"3"}


def test_a_test_set_of_training_images_is_an_error(run: Path, sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(sets / "test")
    for at in range(3):
        (sets / "test" / f"class{at}").mkdir(parents=True)
        shutil.copy(sets / "train" / f"class{at}" / "3.png", sets / "test" / f"class{at}" / "7.png")
    for command in ("probe", "knn", "svm"):
        words = [command, str(run), "--train", str(sets / "train"), "--test", str(sets / "test"), "--workers", "0"]
        assert main(words) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "all 3 test images are also training images, first class0/7.png (class0/3.png)" in line


def test_without_any_nothing_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_class_images(tmp_path / "train", 1, (8, 8, 8))
    write_class_images(tmp_path / "test", 2, (5, 5, 5))
    settings = KnnSettings(str(tmp_path / "train"), str(tmp_path / "test"), reference=False, workers=0)
    (result,) = knn([str(run)], settings)
    assert result.n_shared == 0 and "also" not in capsys.readouterr().err
    assert "also" not in "\n".join(map(str, format_tables([result], TableSettings(format="markdown"))))


def test_copies_of_held_out_images_are_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = write_class_images(tmp_path / "train", 1, (10, 10, 10))
    write_class_images(tmp_path / "test", 2, (5, 5, 5))
    for kind in range(3):
        for at in range(10):
            shutil.copy(train / f"class{kind}" / f"{at}.png", train / f"class{kind}" / f"{at + 10}.png")
    of: dict[str, Any] = {"train": str(train), "test": str(tmp_path / "test"), "stages": ["conv5"], "workers": 0}
    (random, result) = probe(["random:tiny", str(run)], ProbeSettings(reference=False, out=str(tmp_path / "out"), **of))
    said = [
        line
        for line in capsys.readouterr().err.splitlines()
        if "copies of images that the classifier learns from" in line
    ]
    assert len(said) == 1, "of one split, however many networks"
    assert said[0].startswith(f"{train}: 6 of 6 held-out training images")
    assert (
        result.split.endswith(", held-out images that are copies of images that teach: 6")
        and result.split == random.split
    )


def finetuning(task: str, train: str, test: str) -> FinetuneSettings:
    settings = settings_from(TASKS[task].settings, {"train": train, "test": test, "size": 32}, "test")
    assert isinstance(settings, FinetuneSettings)
    return settings


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_finetuning_counts_them(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    for year, stems in (("2007", ["000001", "000002", "000003"]), ("2012", ["2012_000001", "2012_000002"])):
        marked = {stem: [("cat", (2, 3, 20, 30), 0), ("dog", (30, 3, 50, 30), 0)] for stem in stems}
        root = write_devkit(tmp_path, marked, year, "trainval")
        write_masks(root, {stem: np.full((40, 60), 8, np.uint8) for stem in stems}, "trainval")
        for stem in stems:
            save(root / f"JPEGImages/{stem}.jpg", rng.integers(0, 256, (40, 60, 3), np.uint8))
    shutil.copy(tmp_path / "VOC2007/JPEGImages/000003.jpg", tmp_path / "VOC2012/JPEGImages/2012_000002.jpg")
    train, test = f"voc:2007:trainval:{tmp_path}", f"voc:2012:trainval:{tmp_path}"
    found = open_task(finetuning(task, train, test))
    assert found.n_shared == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 2 test images are also training images, first JPEGImages/2012_000002.jpg" in line
    if task != "classify":  # which takes one part only
        with pytest.raises(UserError, match="all 2 test images are also training images"):
            open_task(finetuning(task, f"{train}+{test}", test))


def test_a_finetuned_result_tells(run: Path, sets: Path) -> None:
    settings = settings_from(
        TASKS["classify"].settings,
        {
            "train": str(sets / "train"),
            "test": str(sets / "test"),
            "size": 16,
            "holdout": 0,
            "reference": False,
            "training": {"steps": 2, "batch_size": 4, "warmup": 0},
            "machine": {"workers": 0},
            "out": str(sets / "out"),
        },
        "test",
    )
    assert isinstance(settings, FinetuneSettings)
    done: FinetuneResults = finetune([str(run)], settings)
    assert done.results[0].n_shared == 3
