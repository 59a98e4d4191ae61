"""pretint colorize: exit codes, and images on standard input."""

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from colorize_files import photograph
from PIL import Image
from processes import Launcher

import pretint.cli


def test_exit_codes(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photograph(20, 20).save(tmp_path / "good.jpg")
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


@pytest.mark.slow
def test_standard_input(piped: Piped, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    photograph(70, 50).save(buffer, "JPEG")
    done = piped(buffer.getvalue())
    assert done.returncode == 0, done.stderr
    result = Image.open(io.BytesIO(done.stdout))
    assert result.size == (70, 50) and result.format == "JPEG"
    done = piped(buffer.getvalue(), "--out", str(tmp_path / "out"), "--format", "webp")
    assert done.returncode == 0 and Image.open(tmp_path / "out" / "stdin.webp").size == (70, 50)
    done = piped(b"")
    assert done.returncode == 2 and not done.stdout and b"standard input: empty file" in done.stderr


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
        photograph(60, 40, number).save(buffer, "PNG")
        assert piped(buffer.getvalue(), "--out", str(tmp_path / "out"), "--device", "cpu").returncode == 0
        found.append((tmp_path / "out" / "stdin.png").read_bytes())
    assert found[0] != found[1]
