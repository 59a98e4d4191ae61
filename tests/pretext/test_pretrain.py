"""Pretraining on what users bring: other backbones, few images, bad ones among the held out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from pretext.data import Folder
from pretext.data.batches import Subset
from pretext.engine.checkpoint import load_checkpoint, save_checkpoint
from pretext.engine.journal import read_journal, skipped_images
from pretext.engine.run import newest_checkpoint
from pretext.errors import UserError
from pretext.pretrain import pretrain
from pretext.pretrained import load_pretrained
from pretext.recipe import PretrainSettings
from pretext.settings import settings_from
from pretext.weights.exporter import ExportSettings, export
from pretint.colorization import ColorizeSettings, colorize


def settings(**changed: Any) -> PretrainSettings:
    values: dict[str, Any] = {
        "data": {"source": "bundled"},
        "crop": {"size": 32},
        "objective": {"prior_images": 8},
        "training": {"steps": 2, "batch_size": 4, "warmup": 1},
        "machine": {"workers": 0},
    }
    return settings_from(PretrainSettings, values | changed, "test")


def folder_of(root: Path, count: int, gray: bool = False) -> Path:
    root.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        noise = Image.fromarray(rng.integers(0, 256, (36, 48, 3), dtype=np.uint8))
        (noise.convert("L") if gray else noise).save(root / f"{index:03}.png")
    return root


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet"])
def test_any_timm_model_can_be_trained_looked_at_and_colored_with(name: str, tmp_path: Path) -> None:
    """A vision transformer takes only multiples of its patches: what it is shown must follow."""
    assert not pretrain(tmp_path / "run", settings(backbone={"name": name}))
    image = folder_of(tmp_path / "images", 1)
    done = colorize(tmp_path / "run", [image], ColorizeSettings(out=tmp_path / "out"))
    assert Image.open(done.written[0]).size == (48, 36)


@pytest.mark.parametrize("name", ["plain", "regression"])
def test_every_objective_can_be_trained(name: str, tmp_path: Path) -> None:
    assert not pretrain(tmp_path / "run", settings(objective={"name": name, "prior_images": 8}))


@pytest.mark.parametrize("count", [1, 2, 30])
def test_few_images(count: int, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images", count)
    assert not pretrain(tmp_path / "run", settings(data={"source": str(source)}))
    (start,) = (record for record in read_journal(tmp_path / "run") if record["kind"] == "start")
    assert start["held_out"] == count // 10


@pytest.mark.parametrize("given", [False, True])
def test_gray_images_alone_are_refused(given: bool, tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images", 12, gray=True)
    np.save(tmp_path / "prior.npy", np.full(313, 1 / 313))
    objective = {"prior": str(tmp_path / "prior.npy")} if given else {"prior_images": 8}
    with pytest.raises(UserError, match="nothing to learn from gray images"):
        pretrain(tmp_path / "run", settings(data={"source": str(source)}, objective=objective))


def test_bad_images_among_the_held_out_are_listed(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "images", 40)
    held = Subset(Folder(source), range(4), seed=0)
    (source / held.key(1)).write_bytes(b"")
    assert not pretrain(tmp_path / "run", settings(data={"source": str(source)}))
    assert [key for key, _ in skipped_images(tmp_path / "run")] == [held.key(1)]


def test_any_of_ten_images_may_be_bad(tmp_path: Path) -> None:
    """Also the one that is held out."""
    source = folder_of(tmp_path / "images", 10)
    held = Subset(Folder(source), range(1), seed=0).key(0)
    (source / held).write_text("no image")
    assert not pretrain(tmp_path / "run", settings(data={"source": str(source)}))
    assert [key for key, _ in skipped_images(tmp_path / "run")] == [held]


def test_published_weights_are_only_where_it_starts(tmp_path: Path) -> None:
    """A run reads the file once: its checkpoint needs it no more, and its random network is random."""
    torch.manual_seed(0)
    file = tmp_path / "weights.safetensors"
    published = timm.create_model("test_resnet").state_dict()
    save_file(published, file)
    asked = settings(backbone={"name": "test_resnet", "weights": str(file)}, training={
        "steps": 1, "batch_size": 4, "warmup": 0, "lr": 1e-12,
    })  # fmt: skip
    assert not pretrain(tmp_path / "run", asked)
    file.unlink()
    weights = load_pretrained(tmp_path / "run").colorizer.backbone.state_dict()
    expected = published["conv1.0.weight"].sum(1, keepdim=True)  # RGB to gray
    torch.testing.assert_close(weights["net.conv1.0.weight"], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("part", ["step", "model", "optimizer", "color", "data", "precision"])
def test_a_checkpoint_that_lacks_a_part_is_refused(part: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert not pretrain(run, settings())
    path = newest_checkpoint(run)
    assert path is not None
    state = load_checkpoint(path)
    del state[part]
    save_checkpoint(path, state)
    with pytest.raises(UserError, match=f"not a complete checkpoint of a pretraining: .*{part}"):
        pretrain(run, settings())


def test_a_step_that_cannot_be_computed_is_one_line(tmp_path: Path) -> None:
    tiny = settings(
        crop={"size": 16}, training={"steps": 2, "batch_size": 1, "warmup": 1}, machine={"workers": 0, "device": "cpu"}
    )
    with pytest.raises(UserError, match="step 1 cannot be computed: Expected more than 1 value per channel") as error:
        pretrain(tmp_path / "run", tiny)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({2012: 0.5, 2013: 0.5}, r"2012 is not a text; if it is the name of a folder, write \./2012"),
        ({"bundled": 1e308, "bundled:test": 1e308}, "the weights are too large"),
        ({"bundled": 1, "bundled:train": 1}, "bundled and bundled:train are the same images"),
        ({"FOLDER": 1, "FOLDER/": 1}, "are the same images; give only one"),
    ],
)
def test_mixtures_that_mean_something_else(source: dict[Any, float], said: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images", 12)
    named = {
        str(name).replace("FOLDER", str(folder)) if isinstance(name, str) else name: w for name, w in source.items()
    }
    with pytest.raises(UserError, match=said):
        pretrain(tmp_path / "run", settings(data={"source": named}))
    assert not (tmp_path / "run").exists()


def test_folders_whose_files_have_the_same_names_can_be_mixed(tmp_path: Path) -> None:
    one, other = (str(folder_of(tmp_path / name, 12)) for name in ("one", "other"))
    assert not pretrain(tmp_path / "run", settings(data={"source": {one: 0.5, other: 0.5}}))


def test_the_weights_of_a_mixture_may_not_change(tmp_path: Path) -> None:
    images = str(folder_of(tmp_path / "images", 8))
    assert not pretrain(tmp_path / "run", settings(data={"source": {images: 1.0, "bundled": 1.0}}))
    with pytest.raises(UserError, match=r"began with other settings .* was 1\.0, is now 3\.0"):
        pretrain(tmp_path / "run", settings(data={"source": {images: 1.0, "bundled": 3.0}}))


def _damage(path: Path | None) -> None:
    assert path is not None
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_run_with_a_damaged_checkpoint_goes_on_from_the_one_before(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And computes what it had computed, step by step; whoever reads it before that gets the older one."""
    run, asked = tmp_path / "run", settings(training={"steps": 4, "batch_size": 4, "warmup": 1})
    asked.machine.checkpoint_every = 2
    assert not pretrain(run, asked)
    expected = [record for record in read_journal(run) if record["kind"] in ("step", "health")]
    path = newest_checkpoint(run)
    assert path is not None and path.name == "00000004.pt"
    weights = load_checkpoint(path)["model"]
    _damage(path)
    image = folder_of(tmp_path / "images", 1)
    colorize(run, [image], ColorizeSettings(out=tmp_path / "out"))
    assert load_pretrained(run).step == 2
    export(run, tmp_path / "x.safetensors", ExportSettings())
    assert load_pretrained(tmp_path / "x.safetensors").step == 2
    assert capfd.readouterr().err.count("00000002.pt, the checkpoint before it, is used") == 1

    assert not pretrain(run, asked)
    records = [record for record in read_journal(run) if record["kind"] in ("step", "health")]
    assert records == expected, "no step stands twice, and each has the same loss"
    assert newest_checkpoint(run) == path
    again = load_checkpoint(path)["model"]
    assert all(torch.equal(weights[name], again[name]) for name in weights)

    for damaged in (run / "checkpoints").iterdir():
        _damage(damaged)
    for call in (lambda: pretrain(run, asked), lambda: load_pretrained(run)):
        with pytest.raises(UserError, match="no other undamaged checkpoint") as error:
            call()
        assert "\n" not in str(error.value)
