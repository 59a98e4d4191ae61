"""Coloring images: full resolution, own lightness, formats, batches, memory; bad images are listed."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from colorize_files import photograph, write_checkpoint
from PIL import Image
from skimage.color import rgb2lab
from tiers import one_fast

from pretext.errors import UserError
from pretext.pretrained import load_pretrained
from pretext.recipe import PretrainSettings, build_colorizer
from pretint.colorization import ColorizeSettings, colorize, colorize_image
from pretint.colorization.networks import NetworkColorist


def test_full_resolution_and_own_lightness(model: Path) -> None:
    colorist = NetworkColorist(load_pretrained(model).colorizer, 64, temperature=1.0)
    original = photograph(631, 547)  # more than two strips, no round number
    colored = colorize_image(colorist, original)  # T = 1: faint colors, in gamut
    assert colored.size == original.size and colored.mode == "RGB"
    before, after = (rgb2lab(np.asarray(one))[..., 0] for one in (original, colored))
    assert np.abs(before - after).max() < 1.0, "8-bit rounding moves L by less than 1 of 100"
    assert np.abs(np.asarray(original).astype(int) - np.asarray(colored)).max() > 10, "but the color is its own"


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (5000, 3)])
def test_odd_shapes(model: Path, size: tuple[int, int]) -> None:
    original = Image.new("RGB", size, (120, 130, 140))
    assert colorize_image(NetworkColorist(load_pretrained(model).colorizer, 64), original).size == size


def test_bad_images_are_skipped_and_listed(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    photograph(60, 40).save(source / "good.jpg")
    (source / "empty.jpg").touch()
    (source / "text.png").write_text("no image")
    (source / "torn.jpg").write_bytes((source / "good.jpg").read_bytes()[:300])
    done = colorize(model, [source], ColorizeSettings(out=tmp_path / "out"))
    assert [path.name for path in done.written] == ["good.jpg"]
    assert sorted(Path(error.key).name for error in done.skipped) == ["empty.jpg", "text.png", "torn.jpg"]
    with pytest.raises(UserError, match="none of 1 images could be colored"):
        colorize(model, [source / "empty.jpg"], ColorizeSettings(out=tmp_path / "out2"))
    assert not (tmp_path / "out2").exists()


def test_missing_images(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        colorize(model, [tmp_path / "nowhere.jpg"], ColorizeSettings(out=tmp_path / "out"))


def test_formats(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for index, name in enumerate(("a.JPG", "b.tiff", "c.bmp", "d.jpeg")):
        photograph(60, 40, index).save(source / name, {".JPG": "JPEG"}.get(name[1:]))
    done = colorize(model, [source], ColorizeSettings(out=tmp_path / "own", sheet=False))
    assert [path.name for path in done.written] == ["a.JPG", "b.tiff", "c.png", "d.jpeg"] and done.sheet is None
    assert sorted(path.name for path in (tmp_path / "own").glob("[!.]*")) == ["a.JPG", "b.tiff", "c.png", "d.jpeg"]
    for format, ending in (("webp", ".webp"), ("jpeg", ".jpg")):
        done = colorize(model, [source], ColorizeSettings(out=tmp_path / format, format=format))  # type: ignore[arg-type]
        assert [path.suffix.lower()[:3] for path in done.written] == [ending[:3]] * 4
        assert all(Image.open(path).format == format.upper() for path in done.written)
    again = colorize(model, [source], ColorizeSettings(out=tmp_path / "jpeg", format="jpeg"))
    assert again.written == done.written, "what we made may be made anew"


def test_patterns(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a1.png", "a2.png", "b1.png", "a[1].png"):
        photograph(20, 20).save(tmp_path / "in" / name)
    names = [
        [path.name for path in colorize(model, [tmp_path / "in" / given], ColorizeSettings(tmp_path / "o")).written]
        for given in ("a?.png", "a[1].png")
    ]
    assert names == [["a1.png", "a2.png"], ["a[1].png"]], "a name that exists is no pattern"
    with pytest.raises(UserError, match="no file matches"):
        colorize(model, [tmp_path / "in" / "z*.png"], ColorizeSettings(tmp_path / "o"))


def test_saturation(model: Path) -> None:
    colorizer = load_pretrained(model).colorizer
    colorist = NetworkColorist(colorizer, 64, temperature=1.0)
    original = photograph(50, 40).convert("L").convert("RGB")
    gray, once, half = (
        rgb2lab(np.asarray(colorize_image(colorist, original, saturation)))[..., 1:].mean((0, 1))
        for saturation in (0.0, 1.0, 0.5)
    )
    assert np.abs(gray).max() < 0.5 < np.abs(once).max() and np.abs(half - once / 2).max() < 0.7


def test_samples_and_uncertainty(model: Path, tmp_path: Path) -> None:
    photograph(80, 60).save(tmp_path / "a.jpg")
    settings = ColorizeSettings(out=tmp_path / "out", samples=2, uncertainty=True, sheet=False, format="png")
    done = colorize(model, [tmp_path / "a.jpg"], settings)
    names = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
    assert done.written == [tmp_path / "out" / "a.png"]
    assert names == ["a-sample1.png", "a-sample2.png", "a-uncertainty.png", "a.png"]
    pixels = {name: np.asarray(Image.open(tmp_path / "out" / name)).astype(int) for name in names}
    assert np.abs(pixels["a-sample1.png"] - pixels["a-sample2.png"]).mean() > 3
    lightness = [rgb2lab(pixels[name].astype(np.uint8))[..., 0] for name in ("a.png", "a-sample1.png")]
    assert np.median(np.abs(lightness[0] - lightness[1])) < 0.5
    assert pixels["a-uncertainty.png"].ndim == 2 and pixels["a-uncertainty.png"].min() > 200, "untrained: knows nothing"


def test_batches_change_nothing(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for index in range(7):
        photograph(60 if index % 3 else 40, 40, index).save(source / f"{index}.png")
    for batch in (1, 3):
        colorize(model, [source], ColorizeSettings(out=tmp_path / str(batch), batch=batch))
    for path in source.iterdir():
        one, other = (np.asarray(Image.open(tmp_path / batch / path.name)).astype(int) for batch in ("1", "3"))
        assert np.abs(one - other).max() <= 1


def test_a_network_gone_wrong_is_said(tmp_path: Path) -> None:
    photograph(20, 20).save(tmp_path / "a.png")
    weights = build_colorizer(PretrainSettings(), torch.full((313,), 1 / 313)).state_dict()
    broken = write_checkpoint(tmp_path / "nan.pt", model={**weights, "head.bias": torch.full((313,), torch.nan)})
    with pytest.raises(UserError, match="NaN or infinite"):
        colorize(broken, [tmp_path / "a.png"], ColorizeSettings(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    sure = {
        "head.bias": torch.zeros(313).index_fill(0, torch.tensor(120), 1e4),
        "head.weight": weights["head.weight"] * 0,
    }
    neutral = write_checkpoint(tmp_path / "gray.pt", model={**weights, **sure})
    done = colorize(neutral, [tmp_path / "a.png"], ColorizeSettings(out=tmp_path / "out"))
    assert "the result is gray" in done.notes[0][1]


def test_settings_out_of_range() -> None:
    wrong = {"saturation": -1, "quality": 0, "samples": -1, "megapixels": 0, "batch": -1, "seed": -1, "size": 9999}
    for name, value in wrong.items():
        with pytest.raises(UserError, match=f"{name} is {value}"):
            ColorizeSettings(**{name: value})  # type: ignore[arg-type]


_MEASURED = """
import resource, sys, torch
import io
import os
import subprocess
import sys
from pathlib import Path
from pretint.colorization.photographs import open_photograph, write_photograph
from pretext.engine.memory import reset_peak_memory, peak_memory
from pretint.colorization.merge import merge_image
from PIL import Image
merge_image(Image.new("RGB", (300, 300)), torch.zeros(1, 2, 3, 3))
reset_peak_memory(torch.device("cpu"))
before = peak_memory()
photograph = open_photograph(Path(sys.argv[1]))
photograph.seen((64, 64))
write_photograph(photograph, torch.randn(1, 2, 64, 64) * 20, Path(sys.argv[2]), sys.argv[3])
print((peak_memory() - before) / (photograph.size[0] * photograph.size[1]))
"""


@pytest.mark.parametrize(
    ("name", "format"),
    one_fast(("x.jpg", "jpeg"), [("x.jpg", "jpeg"), ("g.jpg", "jpeg"), ("x.tif", "tiff")]),
)
def test_memory_is_bounded_by_the_files_own_pixels(tmp_path: Path, name: str, format: str) -> None:
    """Bytes a pixel at the worst moment, of a 9-megapixel photograph: source, result, the encoder's buffer."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a part of a process is known on Linux only")
    noise = Image.effect_noise((3000, 3000), 60)
    if name == "x.tif":
        deep = np.asarray(noise).astype(np.uint16)[..., None] * np.array([200, 257, 180], np.uint16)
        tifffile.imwrite(tmp_path / name, deep, photometric="rgb")
    else:
        noise.convert("L" if name == "g.jpg" else "RGB").save(tmp_path / name, quality=80)
    command = [sys.executable, "-c", _MEASURED, str(tmp_path / name), str(tmp_path / "y"), format]
    here = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": str(here)}, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 13
