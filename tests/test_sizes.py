"""Image sizes that a backbone cannot take: every command says so in one line, and what to give instead."""

from pathlib import Path

import pytest
import torch
from evaluations import write_class_images

import pretint.cli
from pretext.engine.run import lock_run, write_checkpoint
from pretext.errors import UserError
from pretext.pretrain import pretrain
from pretext.pretrained import color_contract
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import settings_from, to_plain

pytestmark = pytest.mark.slow

SMALL = ["--objective.stride", "8", "--training.batch_size", "4", "--machine.workers", "0"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of inception_v3, which needs 75 pixels, at random weights; and two folders of small images."""
    folder = tmp_path_factory.mktemp("sizes")
    settings = settings_from(PretrainSettings, {"backbone": {"name": "inception_v3"}, "crop": {"size": 96}}, "test")
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    state = {"step": 1, "settings": to_plain(settings), "color": color_contract(settings, prior)}
    with lock_run(folder / "run", to_plain(settings)):
        write_checkpoint(folder / "run", {**state, "model": build_colorizer(settings, prior).state_dict()})
    for seed, part in enumerate(("train", "test")):
        write_class_images(folder / part, seed, counts=(3, 3), side=80)
    return folder


REFUSED = (
    "pretrain NEW --data.source bundled --backbone.name inception_v3 --crop.size 32",
    "plan RECIPE --data.source bundled --backbone.name inception_v3 --crop.size 32",
    "knn timm:inception_v3:random --train TRAIN --test TEST --size 64 --workers 0",
    "probe RUN --train TRAIN --test TEST --size 64 --workers 0",
    "svm timm:inception_v3:random --train TRAIN --test TEST --size 64 --workers 0",
    "finetune classify RUN --train TRAIN --test TEST --size 64 --machine.workers 0 --out OUT",
    "colorize RUN TRAIN --size 64 --out OUT",
    "export RUN OUT.onnx --format onnx --size 64",
    "export RUN OUT.safetensors --format timm --size 64",
    "score RUN@size=64 --images TRAIN --out OUT",
)


@pytest.mark.parametrize("words", REFUSED)
def test_a_size_that_is_too_small_is_said_in_one_line(
    words: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRETINT_CACHE", str(tmp_path / "cache"))
    recipe = Path(__file__).parents[1] / "configs" / "pretext" / "laptop.yaml"
    places = {
        "RECIPE": recipe,
        "NEW": tmp_path / "new",
        "RUN": folder / "run",
        "TRAIN": folder / "train",
        "TEST": folder / "test",
    }
    arguments = words.split() + (SMALL if words.startswith(("pretrain", "plan")) else [])
    for word, place in {**places, "OUT": tmp_path / "out"}.items():
        arguments = [argument.replace(word, str(place)) for argument in arguments]
    assert pretint.cli.main(arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "timm model inception_v3 cannot take" in line and "give it at least 75 x 75" in line
    assert not (tmp_path / "new").exists()


def test_a_crop_is_refused_before_anything_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretext.pretrain.find_prior", lambda *_: pytest.fail("images are read first"))
    for name, size, words in (
        ("inception_v3", 32, "give it at least 75 x 75"),
        ("test_vit", 100, "give it 96 x 96"),
        ("cait_xxs24_224", 64, "give it 224 x 224, or set img_size"),
    ):
        values = {"data": {"source": "bundled"}, "backbone": {"name": name}, "crop": {"size": size}}
        with pytest.raises(UserError, match=f"cannot take {size} x {size} pixels .*{words}"):
            pretrain(tmp_path / "run", settings_from(PretrainSettings, values, "test"))
    assert not (tmp_path / "run").exists()
