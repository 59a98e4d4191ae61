"""Work that takes long starts only on images that the user named."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import pretint.cli
from pretext.disk_usage import pretrain_disk
from pretext.engine.run import run_settings
from pretext.errors import UserError
from pretext.plan import plan
from pretext.pretrain import pretrain
from pretext.recipe import PretrainSettings
from pretext.settings import settings_file, settings_from
from pretint.study import identity
from transfer.probes.knn import KnnSettings, knn
from transfer.probes.linear import ProbeSettings, probe
from transfer.probes.svm import SvmSettings, svm

SMALL = {
    "data": {"holdout": 4},
    "crop": {"size": 16},
    "objective": {"stride": 4, "prior_images": 20},
    "training": {"steps": 2, "batch_size": 8, "warmup": 1},
    "machine": {"workers": 0},
}


def image_folder(folder: Path, count: int = 12) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / f"{index:02}.png")
    return folder


def small(**data: object) -> PretrainSettings:
    return settings_from(PretrainSettings, {**SMALL, "data": {**SMALL["data"], **data}}, "test")


def refused_line(words: Sequence[object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error of a command that is refused."""
    assert pretint.cli.main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("pretint: ") and err.count("\n") == 1
    return err


def test_pretrain_and_plan_need_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(SMALL))
    for words in (["pretrain", "run", "--config", recipe], ["pretrain", "run"], ["plan", recipe]):
        line = refused_line(words, capsys)
        assert "--data.source FOLDER" in line and "bundled trains on the bundled tiles" in line
    assert sorted(tmp_path.iterdir()) == [recipe]
    for call in (
        lambda: pretrain(tmp_path / "run", PretrainSettings()),
        lambda: plan(small()),
        lambda: pretrain_disk(small()),
    ):
        with pytest.raises(UserError, match=r"data\.source is not set"):
            call()
    assert sorted(tmp_path.iterdir()) == [recipe]


@pytest.mark.slow
def test_a_run_that_exists_goes_on_with_its_own_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(image_folder(tmp_path / "images"))
    for name, source in (("one", folder), ("mixed", {folder: 0.5, "bundled": 0.5}), ("bundled", "bundled")):
        recipe = tmp_path / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump(SMALL))
        assert not pretrain(Path(name), small(source=source))
        assert pretint.cli.main(["pretrain", name, "--config", str(recipe)]) == 0
        assert run_settings(Path(name))["data"]["source"] == source
    capsys.readouterr()
    file = Path("one/settings.yaml")
    file.write_text(file.read_text().replace(f"source: {folder}", "source: null"))
    assert "settings.yaml holds no data.source" in refused_line(["pretrain", "one", "--config", "one.yaml"], capsys)


def test_the_identity_of_a_run_on_bundled_tiles_stays() -> None:
    """A change of these makes every study train anew. The second names prior_images, which 0.1.0 called otherwise."""
    recipe = Path(pretint.cli.commands.RECIPES) / "demo.yaml"
    keys = [identity.pretraining(one) for one in (settings_file(PretrainSettings, recipe), small(source="bundled"))]
    assert [identity.key_of("pretrain", key) for key in keys] == ["cd89551b0e41", "1eab05a2aeec"]


def test_judging_needs_both_sets(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tiny_run
    for command in ("probe", "knn", "svm"):
        line = refused_line([command, run], capsys)
        assert "--train FOLDER and --test FOLDER" in line and "--train bundled:train" in line
        assert "add --test FOLDER" in refused_line([command, run, "--train", "bundled:train"], capsys)
    for job, settings in ((probe, ProbeSettings()), (knn, KnnSettings()), (svm, SvmSettings(train="bundled"))):
        with pytest.raises(UserError, match=r"labeled images are not named: add .*--test FOLDER"):
            job([str(run)], settings)
    for task in ("classify", "detect", "segment"):
        assert "--train" in refused_line(["finetune", task, run], capsys)
    assert "--images" in refused_line(["score", run], capsys)
    assert "no images are named" in refused_line(["colorize", run], capsys)


@pytest.mark.parametrize("words", ["pretrain run", "probe run", "knn run", "finetune classify run", "score run"])
def test_a_job_without_images_is_not_sent(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("executor: local\n")
    line = refused_line(["submit", "--on", cluster, *words.split()], capsys)
    assert "--data.source" in line or "--train" in line or "--images" in line
    jobs = tmp_path / "jobs.yaml"
    jobs.write_text(f"- {{name: first, command: {words}}}\n")
    assert refused_line(["submit", "--on", cluster, "--jobs", jobs], capsys).startswith("pretint: first: ")
    assert sorted(tmp_path.iterdir()) == [cluster, jobs]


def test_a_study_names_the_variant_without_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("variants: {plain: {training.steps: 200}}\n")
    line = refused_line(["study", study, "--folder", tmp_path / "out", "--dry-run"], capsys)
    assert "variant plain" in line and "data.source" in line
