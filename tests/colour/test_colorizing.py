"""Colouring pictures: full resolution, own lightness, nothing overwritten, bad pictures listed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab

from colour.colorizing import ColorizeSettings, colorize, colorize_picture
from colour.colourists import NetworkColourist
from pretext.engine.checkpoint import save_checkpoint
from pretext.errors import UserError
from pretext.recipe import BackboneSettings, PretrainSettings, build_colorizer, colour_contract, load_pretrained
from pretext.settings import plain


def checkpoint(path: Path, **changed: object) -> Path:
    settings = PretrainSettings()
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    state = {
        "step": 7,
        "settings": plain(settings),
        "colour": colour_contract(settings, prior),
        "model": build_colorizer(settings, prior).state_dict(),
        **changed,
    }
    save_checkpoint(path, state)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "x.pt")


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(60, 190, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def test_full_resolution_and_own_lightness(model: Path) -> None:
    colourist = NetworkColourist(load_pretrained(model).colorizer, 64, temperature=1.0)
    original = picture(631, 547)  # more than two strips, no round number
    coloured = colorize_picture(colourist, original)  # T = 1: faint colours, in gamut
    assert coloured.size == original.size and coloured.mode == "RGB"
    before, after = (rgb2lab(np.asarray(one))[..., 0] for one in (original, coloured))
    assert np.abs(before - after).max() < 1.0, "8-bit rounding moves L by less than 1 of 100"
    assert np.abs(np.asarray(original).astype(int) - np.asarray(coloured)).max() > 10, "but the colour is its own"


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (5000, 3)])
def test_odd_shapes(model: Path, size: tuple[int, int]) -> None:
    original = Image.new("RGB", size, (120, 130, 140))
    assert colorize_picture(NetworkColourist(load_pretrained(model).colorizer, 64), original).size == size


def test_files_and_folders_keep_their_places(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    for index, name in enumerate(("a.jpg", "a.png", "sub/b.webp")):
        picture(60, 40, index).save(source / name)
    picture(30, 30).save(tmp_path / "a.bmp")
    out = tmp_path / "out"
    done = colorize(model, [source, tmp_path / "a.bmp"], ColorizeSettings(out=out))
    assert [path.relative_to(out).as_posix() for path in done.written] == ["a.jpg", "a.png", "sub/b.webp", "a-2.png"]
    assert Image.open(done.written[0]).size == (60, 40)
    sheet = Image.open(done.sheet)
    assert sheet.width > 3 * 320 and sheet.mode == "RGB"
    assert not done.skipped


def test_bad_pictures_are_skipped_and_listed(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    picture(60, 40).save(source / "good.jpg")
    (source / "empty.jpg").touch()
    (source / "text.png").write_text("no picture")
    (source / "torn.jpg").write_bytes((source / "good.jpg").read_bytes()[:300])
    done = colorize(model, [source], ColorizeSettings(out=tmp_path / "out"))
    assert [path.name for path in done.written] == ["good.jpg"]
    assert sorted(Path(error.key).name for error in done.skipped) == ["empty.jpg", "text.png", "torn.jpg"]
    with pytest.raises(UserError, match="none of 1 pictures could be coloured"):
        colorize(model, [source / "empty.jpg"], ColorizeSettings(out=tmp_path / "out2"))
    assert not (tmp_path / "out2").exists()


def test_a_picture_is_never_overwritten(model: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "sheet.png"):
        picture(20, 20).save(tmp_path / name)
    picture(20, 20).save(tmp_path / "b.jpg")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for given in (["a.png"], ["a.jpg", "a.png"], ["sheet.png"], ["b.jpg"]):
        with pytest.raises(UserError, match="take the place of a picture"):
            colorize(model, [tmp_path / name for name in given], ColorizeSettings(out=tmp_path))
    with pytest.raises(UserError, match=r"sheet\.png: exists, and was not made by pretint"):
        colorize(model, [tmp_path / "b.jpg"], ColorizeSettings(out=tmp_path, format="png"))
    for out in (tmp_path, tmp_path / "below"):
        with pytest.raises(UserError, match="name a folder outside"):
            colorize(model, [tmp_path], ColorizeSettings(out=out))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_missing_pictures(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        colorize(model, [tmp_path / "nowhere.jpg"], ColorizeSettings(out=tmp_path / "out"))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    other = build_colorizer(
        PretrainSettings(backbone=BackboneSettings("resnet18")), torch.full((313,), 1 / 313, dtype=torch.float64)
    )
    path = checkpoint(tmp_path / "x.pt", model=other.state_dict())
    with pytest.raises(UserError, match="do not fit backbone tiny") as error:
        load_pretrained(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_a_checkpoint_of_other_colours_is_refused(tmp_path: Path) -> None:
    settings = PretrainSettings()
    contract = colour_contract(settings, torch.full((313,), 1 / 313, dtype=torch.float64))
    path = checkpoint(tmp_path / "x.pt", colour={**contract, "white": "D50"})
    with pytest.raises(UserError, match="white D50; this version needs D65"):
        load_pretrained(path)


@pytest.mark.parametrize("missing", ["settings", "colour", "model"])
def test_a_checkpoint_without_a_part_is_refused(tmp_path: Path, missing: str) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        load_pretrained(checkpoint(tmp_path / "x.pt", **{missing: None}))
