"""The methods by name, and on real images."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from photograph_colors import color_photograph
from PIL import Image
from torch.nn import functional as F

import pretint.cli
from pretext.color import rgb_to_lab, rgb_to_lightness
from pretext.errors import UserError
from pretext.settings import settings_from, to_plain
from pretint.colorization import ColorizeSettings, colorize
from pretint.colorization.hints import from_points
from pretint.colorization.reference import ReferenceColorist, ReferenceSettings
from pretint.colorization.registry import open_colorist
from pretint.colorization.scribbles import ScribblesColorist, ScribbleSettings


@pytest.fixture
def scribbles(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text("- {at: [1, 2], color: teal}")
    return path


def test_methods_are_opened_with_their_settings(tmp_path: Path, scribbles: Path) -> None:
    Image.new("RGB", (9, 9), "teal").save(tmp_path / "r.png")
    one = open_colorist(f"reference:{tmp_path / 'r.png'}", reference=ReferenceSettings(samples=7))
    assert isinstance(one, ReferenceColorist) and one.settings.samples == 7
    two = open_colorist("scribbles", hints=scribbles, scribbles=ScribbleSettings(variance=2))
    assert isinstance(two, ScribblesColorist) and two.settings.variance == 2
    assert (
        color_photograph(one, torch.rand(1, 1, 5, 4)).shape
        == color_photograph(two, torch.rand(1, 1, 5, 4)).shape
        == (1, 2, 5, 4)
    )


def test_what_is_missing_is_said(tmp_path: Path, scribbles: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    Image.new("L", (9, 9)).save(tmp_path / "gray.png")
    for name, file, said in (
        ("scribbles", None, "--hints FILE"),
        ("scribbles", tmp_path / "no.yaml", r"no\.yaml: cannot read"),
        ("./scribbles", None, "no such run or checkpoint"),
        ("reference:", None, "name the image"),
        ("reference:no.jpg", None, r"no\.jpg: cannot read the reference \(No such file"),
        (f"reference:{tmp_path}", None, "cannot read the reference"),
        (f"reference:{tmp_path / 'x.jpg'}", None, "empty file"),
        (f"reference:{tmp_path / 'gray.png'}", None, r"gray\.png: has no color"),
        ("reference:a.jpg", scribbles, "takes no hints"),
    ):
        with pytest.raises(UserError, match=said):
            open_colorist(name, hints=file)


@pytest.mark.parametrize("fifo", [False, True])
def test_a_reference_that_is_no_regular_file_is_not_waited_for(tmp_path: Path, fifo: bool) -> None:
    path = Path("/dev/zero")
    if fifo:
        path = tmp_path / "x.jpg"
        os.mkfifo(path)
    with pytest.raises(UserError, match="cannot read the reference: it is not a regular file"):
        open_colorist(f"reference:{path}")


def test_settings_are_read_as_those_of_any_command() -> None:
    for kind, values in (
        (ReferenceSettings, {"samples": 9, "swatches": "a.yaml"}),
        (ScribbleSettings, {"variance": 2}),
    ):
        read = settings_from(kind, values, "x.yaml")
        assert all(getattr(read, name) == value for name, value in values.items())
        assert settings_from(kind, to_plain(read), "x.yaml") == read
    with pytest.raises(UserError, match=r"x\.yaml: variance is 0\.0: it must lie in"):
        settings_from(ScribbleSettings, {"variance": 0}, "x.yaml")


@pytest.mark.parametrize("pixels", [400, 10_000])
@pytest.mark.parametrize("deep", [False, True])
def test_rows_of_a_photograph_are_colored_as_the_whole(tmp_path: Path, pixels: int, deep: bool) -> None:
    """Whatever strips are asked for, by L of the photograph as a network would be shown it."""
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "r.png")
    (tmp_path / "s.yaml").write_text("- {at: [7, 9], radius: 5, color: teal}\n- {at: [40, 30], color: red}")
    photo = random.integers(0, 65536 if deep else 256, (45, 61, 3), np.uint16 if deep else np.uint8)
    lightness = rgb_to_lightness(torch.from_numpy(photo / np.float32(65535 if deep else 255)).permute(2, 0, 1))[None]
    for colorist in (
        open_colorist(f"reference:{tmp_path / 'r.png'}", reference=ReferenceSettings(pixels=pixels)),
        open_colorist("scribbles", hints=tmp_path / "s.yaml", scribbles=ScribbleSettings(pixels=pixels)),
    ):
        width, height = colorist.seen_size((61, 45))
        assert width * height <= pixels
        seen = F.adaptive_avg_pool2d(lightness, (height, width))
        colors = colorist.enlarged(colorist.predict(seen, (61, 45)).ab, seen, (61, 45))
        rows = [colors.rows(top, min(45, top + 13), photo[top : top + 13]) for top in range(0, 45, 13)]
        np.testing.assert_allclose(np.concatenate(rows, 1), colors.rows(0, 45, photo), atol=1e-3)
        np.testing.assert_allclose(np.concatenate(rows, 1)[None], color_photograph(colorist, lightness), atol=0.02)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each method by its name, to files, in the photograph's own lightness."""
    random = np.random.default_rng(1)
    photo = Image.fromarray(random.integers(0, 256, (40, 50), np.uint8))
    photo.save(tmp_path / "photo.png")
    colors = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8)).resize((60, 40))
    colors.save(tmp_path / "colors.png")
    strokes = Image.new("RGBA", (50, 40))
    strokes.paste((200, 40, 40, 255), (5, 5, 20, 8))
    strokes.save(tmp_path / "strokes.png")
    words = {
        "reference": [f"reference:{tmp_path / 'colors.png'}", "--reference.samples", "0"],
        "scribbles": ["scribbles", "--hints", str(tmp_path / "strokes.png"), "--scribbles.variance", "0.1"],
    }
    for name, (model, *options) in words.items():
        out = tmp_path / name
        pale = ["--saturation", "0.2", "--out", str(out)]  # strong colors would be clipped, and L moved
        assert pretint.cli.main(["colorize", model, str(tmp_path / "photo.png"), *options, *pale]) == 0
        with Image.open(out / "photo.png") as file:
            lab = rgb_to_lab(torch.from_numpy(np.array(file)).permute(2, 0, 1))
        assert lab[1:].abs().max() > 8
        gray = rgb_to_lab(torch.from_numpy(np.array(photo.convert("RGB"))).permute(2, 0, 1))
        middle = (gray[0] > 25) & (gray[0] < 90)
        assert (lab[0] - gray[0])[middle].abs().median() < 1
        capsys.readouterr()
    for wrong, said in (
        (["scribbles"], "--hints FILE"),
        ([*words["reference"], "--samples", "2"], "predicts one color"),
        (["scribbles", "--hints", str(tmp_path / "strokes.png"), "--scribbles.variance", "0"], "variance is 0.0"),
        ([words["reference"][0], "--temperature", "0.2"], "--temperature: has no effect on reference:"),
        ([words["reference"][0], "--scribbles.variance", "2"], "--scribbles: has no effect on reference:"),
        ([words["reference"][0], "--hints", str(tmp_path / "strokes.png")], "takes no hints"),
    ):
        model, *options = wrong
        assert (
            pretint.cli.main(["colorize", model, str(tmp_path / "photo.png"), *options, "--out", str(tmp_path / "x")])
            == 2
        )
        complaint = capsys.readouterr().err
        assert said in complaint and complaint.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_swatches_that_do_not_fit_one_photograph_spare_the_others(tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    for name, size in (("a", (30, 40)), ("b", (10, 12)), ("c", (30, 41))):
        Image.fromarray(random.integers(0, 256, size, np.uint8)).save(tmp_path / f"{name}.png")
    colors = tmp_path / "colors.jpg"
    Image.fromarray(random.integers(0, 256, (20, 20, 3), np.uint8)).save(colors)
    (tmp_path / "s.yaml").write_text("- {reference: [0, 0, 9, 9], photo: [20, 20, 9, 9]}")
    settings = ColorizeSettings(
        out=tmp_path / "out", reference=ReferenceSettings(swatches=str(tmp_path / "s.yaml")), sheet=False
    )
    photos = [tmp_path / f"{name}.png" for name in "abc"]
    done = colorize(f"reference:{colors}", photos, settings)
    assert [path.name for path in done.written] == ["a.png", "c.png"]
    (skipped,) = done.skipped
    assert skipped.key == str(photos[1]) and "lies outside the photograph, which has 12 x 10" in skipped.reason


@pytest.mark.parametrize("index", [2, 7, 20])
def test_a_real_image_after_itself_is_itself(shared_data: Path, index: int) -> None:
    path, truth, lightness = real(shared_data, index)
    after = color_photograph(open_colorist(f"reference:{path}", reference=ReferenceSettings(samples=0)), lightness)
    assert float((after[0] - truth).norm(dim=0).max()) == 0


def test_a_real_image_from_its_own_colors(shared_data: Path) -> None:
    """From a sparse grid of them an image is nearer to the truth than gray is."""
    _, truth, lightness = real(shared_data, 7)
    gray = truth.square().mean().sqrt()
    points = [
        (x + 0.5, y + 0.5, 0, *truth[:, y, x].tolist())
        for y in range(4, truth.shape[1], 8)
        for x in range(4, truth.shape[2], 8)
    ]
    spread = color_photograph(ScribblesColorist(from_points(points), ScribbleSettings()), lightness)[0]
    assert (spread - truth).square().mean().sqrt() < 0.5 * gray


def real(shared_data: Path, index: int) -> tuple[Path, torch.Tensor, torch.Tensor]:
    """An image's path, its ab and its L."""
    path = sorted((shared_data / "imagenet-sample").rglob("*.JPEG"))[index]
    with Image.open(path) as file:
        lab = rgb_to_lab(torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1))
    assert lab[1:].square().mean().sqrt() > 5, "an image with color"
    return path, lab[1:], lab[None, :1]
