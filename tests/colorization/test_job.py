"""Coloring images: full resolution, own lightness, nothing overwritten, bad images listed."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from processes import Launcher
from skimage.color import rgb2lab
from tiers import one_fast

import pretint.cli
from pretext.backbones.contract import BackboneSettings
from pretext.engine.checkpoint import save_checkpoint
from pretext.errors import UserError
from pretext.pretrained import color_contract, load_pretrained
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import to_plain
from pretint.colorization import ColorizeSettings, colorize, colorize_image
from pretint.colorization.networks import NetworkColorist


def checkpoint(path: Path, **changed: object) -> Path:
    settings = PretrainSettings()
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    state = {
        "step": 7,
        "settings": to_plain(settings),
        "color": color_contract(settings, prior),
        "model": build_colorizer(settings, prior).state_dict(),
        **changed,
    }
    save_checkpoint(path, state)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("model") / "x.pt")


def image(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(60, 190, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def test_full_resolution_and_own_lightness(model: Path) -> None:
    colorist = NetworkColorist(load_pretrained(model).colorizer, 64, temperature=1.0)
    original = image(631, 547)  # more than two strips, no round number
    colored = colorize_image(colorist, original)  # T = 1: faint colors, in gamut
    assert colored.size == original.size and colored.mode == "RGB"
    before, after = (rgb2lab(np.asarray(one))[..., 0] for one in (original, colored))
    assert np.abs(before - after).max() < 1.0, "8-bit rounding moves L by less than 1 of 100"
    assert np.abs(np.asarray(original).astype(int) - np.asarray(colored)).max() > 10, "but the color is its own"


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (5000, 3)])
def test_odd_shapes(model: Path, size: tuple[int, int]) -> None:
    original = Image.new("RGB", size, (120, 130, 140))
    assert colorize_image(NetworkColorist(load_pretrained(model).colorizer, 64), original).size == size


def test_files_and_folders_keep_their_places(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    for index, name in enumerate(("a.jpg", "a.png", "sub/b.webp")):
        image(60, 40, index).save(source / name)
    image(30, 30).save(tmp_path / "a.bmp")
    out = tmp_path / "out"
    done = colorize(model, [source, tmp_path / "a.bmp"], ColorizeSettings(out=out))
    assert [path.relative_to(out).as_posix() for path in done.written] == ["a.jpg", "a.png", "sub/b.webp", "a-2.png"]
    assert Image.open(done.written[0]).size == (60, 40)
    sheet = Image.open(done.sheet)
    assert sheet.width > 3 * 320 and sheet.mode == "RGB"
    assert not done.skipped


def test_bad_images_are_skipped_and_listed(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    image(60, 40).save(source / "good.jpg")
    (source / "empty.jpg").touch()
    (source / "text.png").write_text("no image")
    (source / "torn.jpg").write_bytes((source / "good.jpg").read_bytes()[:300])
    done = colorize(model, [source], ColorizeSettings(out=tmp_path / "out"))
    assert [path.name for path in done.written] == ["good.jpg"]
    assert sorted(Path(error.key).name for error in done.skipped) == ["empty.jpg", "text.png", "torn.jpg"]
    with pytest.raises(UserError, match="none of 1 images could be colored"):
        colorize(model, [source / "empty.jpg"], ColorizeSettings(out=tmp_path / "out2"))
    assert not (tmp_path / "out2").exists()


def test_an_image_is_never_overwritten(model: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "sheet.png"):
        image(20, 20).save(tmp_path / name)
    image(20, 20).save(tmp_path / "b.jpg")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for given in (["a.png"], ["a.jpg", "a.png"], ["sheet.png"], ["b.jpg"]):
        with pytest.raises(UserError, match="overwrite an image"):
            colorize(model, [tmp_path / name for name in given], ColorizeSettings(out=tmp_path))
    with pytest.raises(UserError, match=r"sheet\.png: exists, and was not made by pretint"):
        colorize(model, [tmp_path / "b.jpg"], ColorizeSettings(out=tmp_path, format="png"))
    for out in (tmp_path, tmp_path / "below"):
        with pytest.raises(UserError, match="name a folder outside"):
            colorize(model, [tmp_path], ColorizeSettings(out=out))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_missing_images(model: Path, tmp_path: Path) -> None:
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


def test_a_checkpoint_of_other_colors_is_refused(tmp_path: Path) -> None:
    settings = PretrainSettings()
    contract = color_contract(settings, torch.full((313,), 1 / 313, dtype=torch.float64))
    path = checkpoint(tmp_path / "x.pt", color={**contract, "white": "D50"})
    with pytest.raises(UserError, match="white D50; this version needs D65"):
        load_pretrained(path)


@pytest.mark.parametrize("missing", ["settings", "color", "model"])
def test_a_checkpoint_without_a_part_is_refused(tmp_path: Path, missing: str) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        load_pretrained(checkpoint(tmp_path / "x.pt", **{missing: None}))


def test_formats(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for index, name in enumerate(("a.JPG", "b.tiff", "c.bmp", "d.jpeg")):
        image(60, 40, index).save(source / name, {".JPG": "JPEG"}.get(name[1:]))
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
        image(20, 20).save(tmp_path / "in" / name)
    names = [
        [path.name for path in colorize(model, [tmp_path / "in" / given], ColorizeSettings(tmp_path / "o")).written]
        for given in ("a?.png", "a[1].png")
    ]
    assert names == [["a1.png", "a2.png"], ["a[1].png"]], "a name that exists is no pattern"
    with pytest.raises(UserError, match="no file matches"):
        colorize(model, [tmp_path / "in" / "z*.png"], ColorizeSettings(tmp_path / "o"))


def test_exit_codes(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image(20, 20).save(tmp_path / "good.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    frames = [Image.new("RGB", (5, 5), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    words = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    given = {name: str(tmp_path / name) for name in ("good.jpg", "bad.jpg", "moving.gif")}
    assert pretint.cli.main(["colorize", str(model), given["good.jpg"], *words]) == 0
    assert pretint.cli.main(["colorize", str(model), *given.values(), *words]) == 1
    out = capsys.readouterr().out
    assert "2 without a result" in out and "bad.jpg: not an image" in out and "moving.gif: holds 2 frames" in out
    assert pretint.cli.main(["colorize", str(model), given["bad.jpg"], *words]) == 2
    assert "none of 1 images could be colored" in capsys.readouterr().err
    assert pretint.cli.main(["colorize", str(model), given["moving.gif"], *words, "--first-frame"]) == 0
    assert (
        pretint.cli.main(
            ["colorize", str(model), given["good.jpg"], "--out", str(tmp_path / "no"), "--megapixels", "0.0001"]
        )
        == 2
    )
    assert "raise --megapixels" in capsys.readouterr().err


Piped = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def piped(model: Path, launcher: Launcher) -> Piped:
    """Colorizes what comes on standard input, in a process of its own."""
    call = ("colorize", model, "-", "--device", "cpu")
    return lambda data, *words: launcher.run(*call, *words, data=data, folder=Path.cwd())


def test_standard_input(piped: Piped, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    image(70, 50).save(buffer, "JPEG")
    done = piped(buffer.getvalue())
    assert done.returncode == 0, done.stderr
    result = Image.open(io.BytesIO(done.stdout))
    assert result.size == (70, 50) and result.format == "JPEG"
    done = piped(buffer.getvalue(), "--out", str(tmp_path / "out"), "--format", "webp")
    assert done.returncode == 0 and Image.open(tmp_path / "out" / "stdin.webp").size == (70, 50)
    done = piped(b"")
    assert done.returncode == 2 and not done.stdout and b"standard input: empty file" in done.stderr


def test_saturation(model: Path) -> None:
    colorizer = load_pretrained(model).colorizer
    colorist = NetworkColorist(colorizer, 64, temperature=1.0)
    original = image(50, 40).convert("L").convert("RGB")
    gray, once, half = (
        rgb2lab(np.asarray(colorize_image(colorist, original, saturation)))[..., 1:].mean((0, 1))
        for saturation in (0.0, 1.0, 0.5)
    )
    assert np.abs(gray).max() < 0.5 < np.abs(once).max() and np.abs(half - once / 2).max() < 0.7


def test_samples_and_uncertainty(model: Path, tmp_path: Path) -> None:
    image(80, 60).save(tmp_path / "a.jpg")
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
        image(60 if index % 3 else 40, 40, index).save(source / f"{index}.png")
    for batch in (1, 3):
        colorize(model, [source], ColorizeSettings(out=tmp_path / str(batch), batch=batch))
    for path in source.iterdir():
        one, other = (np.asarray(Image.open(tmp_path / batch / path.name)).astype(int) for batch in ("1", "3"))
        assert np.abs(one - other).max() <= 1


def test_a_network_gone_wrong_is_said(tmp_path: Path) -> None:
    image(20, 20).save(tmp_path / "a.png")
    weights = build_colorizer(PretrainSettings(), torch.full((313,), 1 / 313)).state_dict()
    broken = checkpoint(tmp_path / "nan.pt", model={**weights, "head.bias": torch.full((313,), torch.nan)})
    with pytest.raises(UserError, match="NaN or infinite"):
        colorize(broken, [tmp_path / "a.png"], ColorizeSettings(out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()
    sure = {
        "head.bias": torch.zeros(313).index_fill(0, torch.tensor(120), 1e4),
        "head.weight": weights["head.weight"] * 0,
    }
    neutral = checkpoint(tmp_path / "gray.pt", model={**weights, **sure})
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


def test_a_call_that_was_killed_goes_on(model: Path, launcher: Launcher, tmp_path: Path) -> None:
    """Killed in the midst: what stands is not made again, and all is as after a call that nobody killed."""
    album, out = tmp_path / "album", tmp_path / "out"
    (album / "b").mkdir(parents=True)
    for number in range(12):
        Image.effect_noise((90 + number, 70), 40).save(album / ("b" if number % 3 else "") / f"{number:02}.jpg")
    words = [str(model), str(album), "--size", "32", "--device", "cpu", "--uncertainty", "yes", "--out"]
    code = (
        "import os, signal, pretint.cli, pretint.colorization.job as c\n"
        "write, count = c.write_photograph, 0\n"
        "def killing(*what):\n"
        "    global count\n"
        "    count += 1\n"
        "    return os.kill(os.getpid(), signal.SIGKILL) if count == 6 else write(*what)\n"
        "c.write_photograph = killing\n"
        f"pretint.cli.main({['colorize', *words, str(out)]!r})\n"
    )
    assert launcher.run(code=code).returncode == -9
    images = sorted(path for path in out.rglob("*.jpg") if not path.name.startswith("."))
    assert len(images) == 5
    before = {path: path.stat().st_mtime_ns for path in images}
    settings = ColorizeSettings(out=out, size=32, device="cpu", uncertainty=True)
    done = colorize(model, [album], settings)
    assert (done.stood, len(done.written)) == (5, 12)
    assert {path: path.stat().st_mtime_ns for path in images} == before
    whole = colorize(model, [album], ColorizeSettings(out=tmp_path / "whole", size=32, device="cpu", uncertainty=True))
    assert whole.stood == 0 and whole.sheet
    for path in [*whole.written, whole.sheet]:
        other = out / path.relative_to(tmp_path / "whole")
        assert path.read_bytes() == other.read_bytes()


def test_what_changed_is_colored_again(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    for name in ("a", "b", "c"):
        Image.effect_noise((90, 70), 40).save(album / f"{name}.png")

    def stood(**other: float) -> int:
        return colorize(model, [album], ColorizeSettings(out=out, size=32, device="cpu", **other)).stood  # type: ignore[arg-type]

    assert [stood(), stood()] == [0, 3]
    assert [stood(saturation=0.5), stood(saturation=0.5), stood()] == [0, 3, 0]
    Image.effect_noise((90, 70), 40).save(album / "b.png")
    assert stood() == 2
    (out / "c.png").unlink()
    assert stood() == 2
    Image.new("RGB", (90, 70)).save(out / "a.png")
    with pytest.raises(UserError, match=r"a\.png: exists, and was not made by pretint"):
        stood()
    (out / "a.png").unlink()
    with Image.open(out / "b.png") as mine:  # painted on, by a program that keeps what the file says of its maker
        exif, mine = mine.getexif(), mine.copy()
    mine.paste("red", (0, 0, 9, 9))
    mine.save(out / "b.png", exif=exif)
    with pytest.raises(UserError, match=r"b\.png: was changed since pretint wrote it; name another folder"):
        stood()
    (out / "b.png").unlink()
    (out / ".pretint-colorize.jsonl").write_bytes(b'{"target": [\n\xff\n{}\n[]\n"x"\n{"target": "a.png", "notes": 5}\n')
    assert [stood(), stood()] == [0, 3]
    assert (
        pretint.cli.main(["colorize", str(model), str(album), "--out", str(out), "--size", "32", "--device", "cpu"])
        == 0
    )
    assert "3 of them stood there already" in capsys.readouterr().out


@pytest.mark.parametrize("named", [False, True])
def test_standard_input_into_a_folder_is_always_colored(
    piped: Piped, tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a file is called -."""
    monkeypatch.chdir(tmp_path)
    if named:
        (tmp_path / "-").touch()
    found = []
    for number in range(2):
        buffer = io.BytesIO()
        image(60, 40, number).save(buffer, "PNG")
        assert piped(buffer.getvalue(), "--out", str(tmp_path / "out"), "--device", "cpu").returncode == 0
        found.append((tmp_path / "out" / "stdin.png").read_bytes())
    assert found[0] != found[1]


def test_after_a_kill_in_mid_change_the_same_call_goes_on(model: Path, tmp_path: Path) -> None:
    """The first results are old, of other settings, the last ones new, and one is new but not remembered yet."""
    image(60, 40).save(tmp_path / "a.jpg")
    old = ColorizeSettings(out=tmp_path / "out", size=32, device="cpu")
    colorize(model, [tmp_path / "a.jpg"], old)
    ledger = tmp_path / "out" / ".pretint-colorize.jsonl"
    first = ledger.read_text()
    new = ColorizeSettings(out=tmp_path / "out", size=32, device="cpu", saturation=0.5)
    colorize(model, [tmp_path / "a.jpg"], new)
    lines = ledger.read_text().splitlines(keepends=True)
    assert len(lines) == 3 and lines[0] == first
    ledger.write_text("".join(lines[:2]))  # killed after the file had its name, and before the last line
    assert colorize(model, [tmp_path / "a.jpg"], new).stood == 0
    assert colorize(model, [tmp_path / "a.jpg"], new).stood == 1


@pytest.mark.parametrize("format", ["jpeg", "png", "webp", "tiff"])
def test_a_file_that_finds_no_room_is_an_error(model: Path, launcher: Launcher, tmp_path: Path, format: str) -> None:
    """The limit on a file's size cuts a write short, as a disk does that fills up, and refuses the next."""
    Image.effect_noise((300, 200), 60).save(tmp_path / "a.png")
    words = ["colorize", str(model), str(tmp_path / "a.png"), "--out", str(tmp_path / "out"), "--format", format]
    code = (
        "import resource, signal, pretint.cli\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
        f"raise SystemExit(pretint.cli.main({[*words, '--size', '32', '--device', 'cpu', '--sheet', 'no']!r}))\n"
    )
    done = launcher.run(code=code)
    assert done.returncode == 2 and b"cannot write the image" in done.stderr and b"Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("[!.]*"))


@pytest.mark.parametrize("out", [".", "album", "other"])
def test_a_pattern_with_results_beside_or_above(
    model: Path, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album").mkdir()
    image(40, 30).save(tmp_path / "album" / "a.gif")
    settings = ColorizeSettings(out=Path(out), size=32, device="cpu", sheet=False)
    for stood in (0, 1):
        done = colorize(model, [Path("album/*.gif")], settings)
        assert done.written == [Path(out) / "a.png"] and done.stood == stood


@pytest.mark.parametrize("pattern", ["*", "**", "**/*.png", "*.png"])
def test_a_pattern_means_the_same_when_called_again(model: Path, tmp_path: Path, pattern: str) -> None:
    (tmp_path / "album" / "b").mkdir(parents=True)
    for name in ("a.png", "b/c.png"):
        image(40, 30).save(tmp_path / "album" / name)
    settings = ColorizeSettings(out=tmp_path / "album" / "colored", size=32, device="cpu")
    first, second = (colorize(model, [tmp_path / "album" / pattern], settings) for _ in range(2))
    assert first.written == second.written and second.stood == len(first.written) == (1 if pattern == "*.png" else 2)


def test_links_that_lead_nowhere(model: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    image(40, 30).save(album / "a.jpg")
    (album / "self.jpg").symlink_to("self.jpg")
    settings = ColorizeSettings(out=tmp_path / "out", size=32, device="cpu")
    assert [path.name for path in colorize(model, [album], settings).written] == ["a.jpg"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jpg").symlink_to("a.jpg")
    with pytest.raises(UserError, match=r"a\.jpg: exists, and was not made by pretint"):
        colorize(model, [album], ColorizeSettings(out=tmp_path / "other", size=32, device="cpu"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError, match="loop"):
        colorize(model, [album], ColorizeSettings(out=tmp_path / "loop", size=32, device="cpu"))


def test_names_that_are_too_long_cost_their_image_alone(model: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    for name in ("a" * 251, "\N{CJK UNIFIED IDEOGRAPH-5B57}" * 83, "short"):
        image(40, 30).save(album / f"{name}.jpg")
    settings = ColorizeSettings(out=tmp_path / "out", size=32, device="cpu")
    assert len(colorize(model, [album], settings).written) == 3
    done = colorize(model, [album], ColorizeSettings(out=tmp_path / "o", size=32, device="cpu", samples=1))
    assert [path.name for path in done.written] == ["short.jpg"] and len(done.skipped) == 2
    assert all("too long" in error.reason for error in done.skipped)


def test_two_processes_into_one_folder(model: Path, tmp_path: Path) -> None:
    image(40, 30).save(tmp_path / "a.jpg")
    settings = ColorizeSettings(out=tmp_path / "out", size=32, device="cpu")
    holding = (
        "import sys, pathlib, pretext.files as f\n"
        "with f.lock_folder(pathlib.Path(sys.argv[1]), 'there'):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(tmp_path / "out")], stdin=-1, stdout=-1, env=environment
    ) as other:
        assert other.stdout and other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="another process is coloring into it"):
            colorize(model, [tmp_path / "a.jpg"], settings)
        other.communicate()
    assert len(colorize(model, [tmp_path / "a.jpg"], settings).written) == 1


def test_what_is_no_file_at_the_place_of_ours(model: Path, tmp_path: Path) -> None:
    """A pipe would be waited for without end; a link would have its target written to."""
    image(40, 30).save(tmp_path / "a.jpg")
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir()
    victim.write_text("mine")
    settings = ColorizeSettings(out=out, size=32, device="cpu")
    os.mkfifo(out / "a.jpg")
    with pytest.raises(UserError, match="exists, and was not made by pretint"):
        colorize(model, [tmp_path / "a.jpg"], settings)
    (out / "a.jpg").unlink()
    (out / ".a.jpg.part").symlink_to(victim)
    assert colorize(model, [tmp_path / "a.jpg"], settings).written and not (out / "a.jpg").is_symlink()
    (out / "a.jpg").unlink()
    (out / ".pretint-colorize.jsonl").unlink()
    for make in (os.mkfifo, lambda path: path.symlink_to(victim)):
        make(out / ".pretint-colorize.jsonl")
        with pytest.raises(UserError, match=r"pretint-colorize\.jsonl: cannot be written"):
            colorize(model, [tmp_path / "a.jpg"], settings)
        (out / ".pretint-colorize.jsonl").unlink()
    assert victim.read_text() == "mine"


def test_a_memory_that_cannot_be_read_is_a_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(40, 30).save(tmp_path / "a.jpg")
    settings = ColorizeSettings(out=tmp_path / "out", size=32, device="cpu")
    colorize(model, [tmp_path / "a.jpg"], settings)
    read = Path.read_bytes

    def refusing(path: Path) -> bytes:
        if path.name.endswith(".jsonl"):
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    with pytest.raises(UserError, match=r"jsonl: cannot be read \(Permission denied\)"):
        colorize(model, [tmp_path / "a.jpg"], settings)


def test_a_lock_that_is_none(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image(40, 30).save(tmp_path / "a.jpg")
    (tmp_path / "out").mkdir()
    settings = ColorizeSettings(out=tmp_path / "out", size=32, device="cpu")
    (tmp_path / "out" / ".lock").mkdir()
    with pytest.raises(UserError, match="out: cannot write there"):
        colorize(model, [tmp_path / "a.jpg"], settings)
    (tmp_path / "out" / ".lock").rmdir()

    def without(*what: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.lockf", without)
    with pytest.raises(UserError, match="cannot be locked \\(No locks available\\)"):
        colorize(model, [tmp_path / "a.jpg"], settings)
