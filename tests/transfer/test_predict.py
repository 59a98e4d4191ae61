"""A fine-tuned network as a file: it finds in images what the network found in the test images; and bad files."""

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from finetunings import folder_of, settings, tuned
from PIL import Image
from shapes import make_devkit

import pretint.cli
import transfer.predict
from pretext.errors import UserError
from transfer.labels.masks import mask_of
from transfer.metrics.box_ap import BoxAP
from transfer.model_file import NAME, read_model
from transfer.predict import PredictSettings, file_names, predict
from transfer.results import Result
from transfer.tasks import visualize
from transfer.tasks.registry import TASKS, open_task
from transfer.tasks.task import predictions


@pytest.fixture(scope="module")
def devkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_devkit(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module")
def photos(devkit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images alone."""
    folder = tmp_path_factory.mktemp("photos")
    for stem in (devkit / "VOC2007/ImageSets/Main/test.txt").read_text().split():
        (folder / f"{stem}.jpg").symlink_to(next((devkit / "VOC2007/JPEGImages").glob(f"{stem}.*")))
    return folder


def small(out: Path, **changed: Any) -> PredictSettings:
    return PredictSettings(**{"out": str(out), "workers": 0, "precision": "fp32", "least": 0.0, **changed})


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def train(task: str, run: Path, devkit: Path, **changed: Any) -> tuple[Result, Path]:
    [result] = tuned([run], task, devkit, reference=False, **changed)
    return result, folder_of(result)


@pytest.mark.parametrize("task", [pytest.param("classify", marks=pytest.mark.slow), "detect", "segment"])
def test_it_finds_what_the_network_found(
    task: str, tiny_run: Path, devkit: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer.predict, "_PART", 5)
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    result, folder = train(task, run, devkit)
    chosen = settings(task, devkit, reference=False)
    opened = open_task(chosen)
    with torch.inference_mode():
        model = read_model(folder)
    place = transfer.predict.choose_compute("cpu", "fp32", 0)
    trained, _ = predictions(opened, model.module, opened.test, place)
    assert len(trained) == 16 and model.task.classes == opened.classes

    counts: list[int] = []
    draw_boxes = visualize.draw_boxes

    def count_boxes(image: Image.Image, boxes: Any, *given: Any) -> Image.Image:
        counts.append(len(boxes))
        return draw_boxes(image, boxes, *given)

    monkeypatch.setattr(visualize, "draw_boxes", count_boxes)
    done = predict(str(folder), str(photos), small(tmp_path / "out", draw=True))
    assert done.images == 16 and not done.skipped
    stems = [Path(opened.test.key(index)).stem for index in range(16)]
    table = rows(tmp_path / "out")
    with Image.open(tmp_path / "out" / "drawn" / f"{stems[3]}.jpg") as drawn:
        assert min(drawn.size) >= 200
    if task == "classify":
        for index, row in enumerate(table):
            chances = 1 / (1 + np.exp(-trained[stems.index(Path(row["image"]).stem)]))
            assert [float(row[name]) for name in opened.classes] == pytest.approx(chances.tolist(), abs=1e-5), index
    elif task == "detect":
        content = json.loads((tmp_path / "out" / "predictions.json").read_text())
        of_image: dict[str, list[Any]] = {Path(image["file_name"]).stem: [] for image in content["images"]}
        for one in content["annotations"]:
            of_image[Path(content["images"][one["image_id"] - 1]["file_name"]).stem].append(one)
        again = {}
        for index, stem in enumerate(stems):
            boxes = np.array([one["bbox"] for one in of_image[stem]], np.float32).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            scores = np.array([one["score"] for one in of_image[stem]], np.float32)
            again[index] = (boxes, scores, np.array([one["category_id"] - 1 for one in of_image[stem]], np.int64))
            order = np.argsort(-trained[index][1], kind="stable")
            np.testing.assert_allclose(boxes, trained[index][0][order], atol=0.02)
        values = [outcome.value for _, outcome in opened.outcomes(opened.test, again)]
        assert values == pytest.approx([row.score.value for row in result.rows], abs=1e-6)
        assert len(table) == len(content["annotations"]) == sum(counts), "each box that is written is drawn"
        assert isinstance(opened.outcomes(opened.test, again)[0][1], BoxAP)
    else:
        for index, stem in enumerate(stems):
            with Image.open(tmp_path / "out" / "masks" / f"{stem}.png") as image:
                assert image.mode == "P" and np.array_equal(np.array(image), trained[index].mask)
                assert np.array(image).shape == mask_of(opened.test, index).shape
        outcomes = opened.outcomes(opened.test, trained)
        assert outcomes[0][1].value == pytest.approx(result.rows[0].score.value, abs=1e-9)
        assert sum(float(table[0][name]) for name in opened.classes) == pytest.approx(1, abs=1e-4)


def test_names_of_files() -> None:
    keys = ["a.jpg", "b/a.png", "b/a.jpg", "2024.05.01.tif", "0007", "../c.jpg", "/c.jpg", "./d.v2", "e.jpg.png"]
    named = ["a", "b/a.png", "b/a.jpg", "2024.05.01", "0007", "c.jpg", "c.jpg~", "d.v2", "e.jpg"]
    assert file_names(keys) == named
    assert file_names(["c.jpg.png", "c.jpg", "c.png"]) == ["c.jpg", "c.jpg~", "c.png"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "changed"),
    [
        ("rescaled:RUN", {}),
        ("RUN", {"batch_norm": "frozen", "freeze_to": "conv2"}),
        ("RUN", {"batch_norm": "absorbed", "color": True}),
        ("random:resnet18", {"size": 64}),
        ("timm:test_resnet:random", {"size": 64}),
    ],
)
def test_every_kind_of_network_comes_back(
    spec: str, changed: dict[str, Any], tiny_run: Path, devkit: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    spec = spec.replace("RUN", str(run))
    [result] = tuned([spec], "classify", devkit, reference=False, out=str(tmp_path / "out"), **changed)
    [folder] = (tmp_path / "out" / "finetuned").iterdir()
    chosen = settings("classify", devkit, reference=False, **changed)
    opened, model = open_task(chosen), read_model(folder / NAME)
    found, _ = predictions(opened, model.module, opened.test, transfer.predict.choose_compute("cpu", "fp32", 0))
    [(_, outcome)] = opened.outcomes(opened.test, found)
    assert outcome.value == pytest.approx(result.rows[0].score.value, abs=1e-9)


@pytest.mark.slow
def test_a_stop_keeps_what_is_done(
    tiny_run: Path, devkit: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder = train("segment", Path(shutil.copytree(tiny_run, tmp_path / "run")), devkit)
    (folder / NAME).unlink()
    train("segment", tmp_path / "run", devkit)  # a result of an earlier version: it gets its model
    real, calls = TASKS["segment"].open.apply, 0  # type: ignore[attr-defined]

    def stop(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            signal.raise_signal(signal.SIGTERM)
        return real(*given)

    monkeypatch.setattr(TASKS["segment"].open, "apply", stop)
    with pytest.raises(SystemExit):
        predict(str(folder), str(photos), small(tmp_path / "out"))
    assert calls == 1
    assert predict(str(folder), str(photos), small(tmp_path / "out")).images == 16
    assert calls == 2, "eight images at a time"
    assert len(rows(tmp_path / "out")) == 16


@pytest.mark.slow
def test_interrupted_it_goes_on(
    tiny_run: Path, devkit: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer.predict, "_PART", 5)
    _, folder = train("segment", Path(shutil.copytree(tiny_run, tmp_path / "run")), devkit)
    images = Path(shutil.copytree(photos, tmp_path / "images"))
    first = sorted(images.iterdir())[2]
    first.unlink()
    first.write_bytes(b"torn")
    predict(str(folder), str(images), small(tmp_path / "whole"))
    real = TASKS["segment"].open.apply  # type: ignore[attr-defined]
    calls = 0

    def stop(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(TASKS["segment"].open, "apply", stop)
    with pytest.raises(KeyboardInterrupt):
        predict(str(folder), str(images), small(tmp_path / "out"))
    done = predict(str(folder), str(images), small(tmp_path / "out"))
    assert calls == 5, "the first five are not done again"
    assert done.images == 15 and [key for key, _ in done.skipped] == [first.name]
    for file in (tmp_path / "whole").rglob("*"):
        if file.is_file() and ".partial" not in str(file):
            assert file.read_bytes() == (tmp_path / "out" / file.relative_to(tmp_path / "whole")).read_bytes()


def test_bad_models(tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    safetensors.torch.save_file({"x": torch.zeros(3)}, tmp_path / "other.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10")
    facts = {"format": "pretint model 1", "task": "segment", "classes": ["a", "b"], "multilabel": False}
    facts |= {"backbone": "tiny", "arguments": {}, "in_color": False, "view_size": 32, "rescaled": False}
    facts |= {"channels": [], "settings": {}}
    for name, changed in {"weights": {}, "task": {"task": "draw"}, "classes": {"classes": 3}}.items():
        metadata = {"pretint": json.dumps({**facts, **changed})}
        safetensors.torch.save_file({"x": torch.zeros(3)}, tmp_path / f"{name}.safetensors", metadata)
    for model, message in (
        ("none.safetensors", "no such file; give a model that pretint finetune wrote"),
        ("torn.safetensors", "damaged, or no safetensors file"),
        ("other.safetensors", "no model of pretint finetune"),
        ("weights.safetensors", "do not fit"),
        ("task.safetensors", "do not fit"),
        ("classes.safetensors", "do not fit"),
        (str(tiny_run), "holds no model.safetensors; give the folder of a finished finetune"),
    ):
        with pytest.raises(UserError, match=message) as error:
            read_model(tmp_path / model)
        assert "\n" not in str(error.value)
    assert pretint.cli.main(["predict", str(tiny_run), str(tmp_path)]) == 2
    assert "out is not set: give a folder for the predictions, --out FOLDER" in capsys.readouterr().err
