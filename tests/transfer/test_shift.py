"""Several test sets in one call: each number is that of a call of its own, and drops are paired where images are."""

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluations import QUICK, read_numbers, write_class_images
from PIL import Image

import pretint.cli
import transfer.probes.linear
from pretext.errors import UserError
from pretint.commands import find_command
from transfer.layout import Number
from transfer.probes.knn import KnnSettings, knn
from transfer.probes.linear import ProbeSettings, probe
from transfer.probes.svm import SvmSettings, svm
from transfer.protocols import PROTOCOLS, SvmProtocol
from transfer.results import Result
from transfer.shift import shift_sheets


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "modern", QUICK)
    machines = PROTOCOLS["voc07_svm"]
    assert isinstance(machines, SvmProtocol)
    monkeypatch.setitem(PROTOCOLS, "voc07_svm", replace(machines, costs=(0.1, 1.0)))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Training images; plain test images, the same with noise under another ending, and others of other numbers."""
    folder = tmp_path_factory.mktemp("shifted")
    write_class_images(folder / "train", 1, (20, 20, 20))
    write_class_images(folder / "plain", 2, (20, 20, 20))
    write_class_images(folder / "other", 3, (9, 12, 15))
    rng = np.random.default_rng(4)
    for file in (folder / "plain").rglob("*.png"):
        noisy = folder / "noisy" / file.relative_to(folder / "plain").with_suffix(".bmp")
        noisy.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.asarray(Image.open(file))
        Image.fromarray((pixels + rng.normal(0, 90, pixels.shape)).clip(0, 255).astype(np.uint8)).save(noisy)
    (folder / "other" / "class1" / "3.png").write_bytes(b"torn")
    return folder


@pytest.fixture
def call(tiny_run: Path, images: Path, tmp_path: Path) -> Callable[..., list[Result]]:
    def call(job: Any, kind: Any, *names: str, out: str = "out", **changed: Any) -> list[Result]:
        test = {name: str(images / name) for name in names} if len(names) > 1 else str(images / names[0])
        common = {"train": str(images / "train"), "workers": 0, "cache": str(tmp_path / "cache"), "precision": "fp32"}
        settings = kind(**common, test=test, out=str(tmp_path / out), stages=["conv1", "conv3"], **changed)
        results: list[Result] = job([str(tiny_run)], settings)
        return results

    return call


@pytest.mark.parametrize(("job", "kind"), [(probe, ProbeSettings), (knn, KnnSettings), (svm, SvmSettings)])
def test_each_set_has_the_numbers_of_a_call_of_its_own(
    job: Any, kind: Any, call: Callable[..., list[Result]], tmp_path: Path
) -> None:
    names = ["plain", "noisy", "other"]
    together = call(job, kind, *names)
    apart = [result for name in names for result in call(job, kind, name, out="apart")]
    assert len(together) == 6 and [result.network.kind for result in together[:2]] == ["random", "pretrained"]
    for ours, theirs in zip(together, apart, strict=True):
        assert Path(ours.file).name == Path(theirs.file).name
        assert read_numbers(ours.file) == read_numbers(theirs.file)
        assert ours.n_test == theirs.n_test and ours.skipped == theirs.skipped
    assert [result.n_test for result in together] == [60, 60, 60, 60, 35, 35]


def test_what_is_there_is_not_made_again(call: Callable[..., list[Result]], monkeypatch: pytest.MonkeyPatch) -> None:
    plain = call(probe, ProbeSettings, "plain")
    times = [Path(result.file).stat().st_mtime_ns for result in plain]
    both = call(probe, ProbeSettings, "plain", "noisy")
    assert [result.file for result in both[:2]] == [result.file for result in plain]
    assert [Path(result.file).stat().st_mtime_ns for result in plain] == times
    monkeypatch.setattr(transfer.probes.linear, "_linear", lambda *_, **__: pytest.fail("trained again"))
    assert call(probe, ProbeSettings, "noisy", "plain") == [*both[2:], *both[:2]]


def test_drops(call: Callable[..., list[Result]], images: Path, tmp_path: Path) -> None:
    names = ["plain", "noisy", "other"]
    results = call(knn, KnnSettings, *names, reference=False)
    spelled = {name: f"{images}/./{name}" for name in names}  # results are found by their images, not by the path
    settings = KnnSettings(train=str(images / "train"), test=spelled)
    (sheet,) = shift_sheets(results, settings)
    assert sheet.grid.header == ("plain", "noisy", "noisy\n- plain", "other", "other\n- plain")
    ((title, cells),) = sheet.grid.rows
    plain, noisy, other = (result.rows[-1] for result in results)
    assert title.endswith(plain.name)
    numbers = [cell.score for cell in cells if isinstance(cell, Number)]
    assert numbers[0] == plain.score and numbers[1] == noisy.score and numbers[3] == other.score

    # Paired: the bootstrap of each image's difference, by its definition.
    apart = noisy.outcomes[0].correct.astype(int) - plain.outcomes[0].correct  # type: ignore[attr-defined]
    drawn = np.random.default_rng(1).integers(60, size=(20_000, 60))
    low, high = np.quantile(apart[drawn].mean(1), (0.025, 0.975))
    assert numbers[2].value == pytest.approx(apart.mean()) and apart.mean() < 0
    assert (numbers[2].low, numbers[2].high) == pytest.approx((low, high), abs=0.02)
    assert sheet.footer[-1] == "images of the same names as in plain, compared one by one: noisy"

    # Unpaired: both intervals add up as sides of a right triangle.
    change = other.score.value - plain.score.value
    low = change - math.hypot(other.score.value - other.score.low, plain.score.high - plain.score.value)
    assert numbers[4].value == pytest.approx(change) and numbers[4].low == pytest.approx(low)


def test_images_that_only_one_set_can_read_are_not_paired(
    call: Callable[..., list[Result]], images: Path, tmp_path: Path
) -> None:
    for name, torn in (("plain", 3), ("noisy", 4)):
        folder = shutil.copytree(images / name, tmp_path / name)
        file = sorted((folder / "class1").iterdir())[torn]
        file.write_bytes(b"torn")
    settings = KnnSettings(
        train=str(images / "train"),
        test={name: str(tmp_path / name) for name in ("plain", "noisy")},
        workers=0,
        cache=str(tmp_path / "cache"),
    )
    results = knn(["random:alexnet"], replace(settings, size=32, out=str(tmp_path / "out"), stages=["conv1"]))
    plain, noisy = (result.rows[-1].score for result in results)
    assert [result.n_test for result in results] == [59, 59]
    (sheet,) = shift_sheets(results, settings)
    assert not any("one by one" in line for line in sheet.footer)
    change = next(cell.score for cell in sheet.grid.rows[0][1] if isinstance(cell, Number) and cell.signed)
    assert change.low == pytest.approx(
        noisy.value - plain.value - math.hypot(noisy.value - noisy.low, plain.high - plain.value)
    )


def test_the_command(tiny_run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["knn", str(shutil.copytree(tiny_run, tmp_path / "run")), "--train", f"{images}/train", "--workers", "0"]
    words += ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")]
    tests = [f"--test=plain={images}/plain", "--test", f"other={images}/other"]
    assert pretint.cli.main([*words, *tests]) == 0
    out = capsys.readouterr().out
    assert "on 60 test images" in out and "on 35 test images" in out and "torn" not in out
    table = out[out.index("knn, cached: top-1 accuracy on shifted test images, %") :]
    assert "- plain" in table and f"other: {images}/other" in table

    assert pretint.cli.main([*words, "--test", f"{images}/plain", "--test", f"other={images}/other"]) == 2
    assert "several test sets need a name each" in capsys.readouterr().err
    assert pretint.cli.main([*words, "--test", f"a={images}/plain", "--test", f"a={images}/other"]) == 2
    assert "several test sets need a name each" in capsys.readouterr().err
    assert pretint.cli.main([*words, "--test", f"a={images}/plain", "--test", f"b={images}/./plain"]) == 2
    assert "test sets a and b are the same images" in capsys.readouterr().err


def test_names_of_test_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command, _ = find_command(["knn"])
    parse = lambda *tests: command.parse(["x", "--train", "a", *tests]).settings.test  # noqa: E731
    assert parse("--test", "a/lr=3") == "a/lr=3" and parse("--test", "fog=a/lr=3") == {"fog": "a/lr=3"}
    (tmp_path / "lr=3").mkdir()
    assert parse("--test", "lr=3") == "lr=3", "a folder"
    assert parse("--test=a=b", "--test", "c=d") == {"a": "b", "c": "d"}
    with pytest.raises(UserError, match="test"):
        parse("--test", "a=b", "--test")
    with pytest.raises(UserError, match="labeled images are not named: add --test FOLDER"):
        command.parse(["x", "--train", "a", "--test", ""])
