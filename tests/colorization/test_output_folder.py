"""The folder of results: nothing of others is overwritten, one process at a time, and one line for what is wrong."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from colorize_files import photograph
from PIL import Image
from processes import Launcher

from pretext.errors import UserError
from pretint.colorization import ColorizeSettings, colorize


def test_files_and_folders_keep_their_places(model: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    for index, name in enumerate(("a.jpg", "a.png", "sub/b.webp")):
        photograph(60, 40, index).save(source / name)
    photograph(30, 30).save(tmp_path / "a.bmp")
    out = tmp_path / "out"
    done = colorize(model, [source, tmp_path / "a.bmp"], ColorizeSettings(out=out))
    assert [path.relative_to(out).as_posix() for path in done.written] == ["a.jpg", "a.png", "sub/b.webp", "a-2.png"]
    assert Image.open(done.written[0]).size == (60, 40)
    sheet = Image.open(done.sheet)
    assert sheet.width > 3 * 320 and sheet.mode == "RGB"
    assert not done.skipped


def test_an_image_is_never_overwritten(model: Path, tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg", "sheet.png"):
        photograph(20, 20).save(tmp_path / name)
    photograph(20, 20).save(tmp_path / "b.jpg")
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


def test_links_that_lead_nowhere(model: Path, tmp_path: Path) -> None:
    album = tmp_path / "album"
    album.mkdir()
    photograph(40, 30).save(album / "a.jpg")
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
        photograph(40, 30).save(album / f"{name}.jpg")
    settings = ColorizeSettings(out=tmp_path / "out", size=32, device="cpu")
    assert len(colorize(model, [album], settings).written) == 3
    done = colorize(model, [album], ColorizeSettings(out=tmp_path / "o", size=32, device="cpu", samples=1))
    assert [path.name for path in done.written] == ["short.jpg"] and len(done.skipped) == 2
    assert all("too long" in error.reason for error in done.skipped)


def test_two_processes_into_one_folder(model: Path, tmp_path: Path) -> None:
    photograph(40, 30).save(tmp_path / "a.jpg")
    settings = ColorizeSettings(out=tmp_path / "out", size=32, device="cpu")
    holding = (
        "import sys, pathlib, pretext.store as s\n"
        "with s.lock(pathlib.Path(sys.argv[1]) / s.LOCK, 'there'):\n"
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
    photograph(40, 30).save(tmp_path / "a.jpg")
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


def test_a_lock_that_is_none(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph(40, 30).save(tmp_path / "a.jpg")
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
