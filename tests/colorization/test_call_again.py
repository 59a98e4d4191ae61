"""Coloring called again: what stands is kept, also after a kill; what changed is colored anew."""

from pathlib import Path

import pytest
from colorize_files import photograph
from PIL import Image

import pretint.cli
from pretext.errors import UserError
from pretint.colorization import ColorizeSettings, colorize


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
    (out / ".pretint-colorize.jsonl").write_bytes(b'{"target": [\n\xff\n{"target": "a.p\n')
    assert [stood(), stood()] == [0, 3]
    assert (
        pretint.cli.main(["colorize", str(model), str(album), "--out", str(out), "--size", "32", "--device", "cpu"])
        == 0
    )
    assert "3 of them already existed" in capsys.readouterr().out


def test_after_a_kill_in_mid_change_the_same_call_goes_on(model: Path, tmp_path: Path) -> None:
    """The first results are old, of other settings, the last ones new, and one is new but not remembered yet."""
    photograph(60, 40).save(tmp_path / "a.jpg")
    old = ColorizeSettings(out=tmp_path / "out", size=32, device="cpu")
    colorize(model, [tmp_path / "a.jpg"], old)
    ledger = tmp_path / "out" / ".pretint-colorize.jsonl"
    first = ledger.read_text()
    new = ColorizeSettings(out=tmp_path / "out", size=32, device="cpu", saturation=0.5)
    colorize(model, [tmp_path / "a.jpg"], new)
    lines = ledger.read_text().splitlines(keepends=True)
    assert len(lines) == 4 and "".join(lines[:2]) == first
    ledger.write_text("".join(lines[:3]))  # killed after the file had its name, and before the last line
    assert colorize(model, [tmp_path / "a.jpg"], new).stood == 0
    assert colorize(model, [tmp_path / "a.jpg"], new).stood == 1


@pytest.mark.parametrize("out", [".", "album", "other"])
def test_a_pattern_with_results_beside_or_above(
    model: Path, tmp_path: Path, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album").mkdir()
    photograph(40, 30).save(tmp_path / "album" / "a.gif")
    settings = ColorizeSettings(out=Path(out), size=32, device="cpu", sheet=False)
    for stood in (0, 1):
        done = colorize(model, [Path("album/*.gif")], settings)
        assert done.written == [Path(out) / "a.png"] and done.stood == stood


@pytest.mark.parametrize("pattern", ["*", "**", "**/*.png", "*.png"])
def test_a_pattern_means_the_same_when_called_again(model: Path, tmp_path: Path, pattern: str) -> None:
    (tmp_path / "album" / "b").mkdir(parents=True)
    for name in ("a.png", "b/c.png"):
        photograph(40, 30).save(tmp_path / "album" / name)
    settings = ColorizeSettings(out=tmp_path / "album" / "colored", size=32, device="cpu")
    first, second = (colorize(model, [tmp_path / "album" / pattern], settings) for _ in range(2))
    assert first.written == second.written and second.stood == len(first.written) == (1 if pattern == "*.png" else 2)


def test_a_memory_that_cannot_be_read_is_a_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photograph(40, 30).save(tmp_path / "a.jpg")
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
