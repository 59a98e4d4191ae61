"""What a user is told who does not name a model, and what each command takes as one."""

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Site, serve_app
from colorize_files import encode_image, photograph
from PIL import Image

import pretint.cli
from pretext.engine.signals import ExitStatus
from pretext.errors import UserError
from pretext.weights.importer import import_weights
from pretint.apps.studio.pages import studio_app
from pretint.apps.studio.photographs import OpenImages, ViewSettings, ab_of
from pretint.apps.studio.serve import StudioSettings, studio
from pretint.colorization import ColorizeSettings, colorize
from pretint.colorization.hints import from_points
from pretint.colorization.job import colorize_image
from pretint.colorization.scribbles import scribbles_colorist

KINDS = ("a run", "a checkpoint", "published weights", "docs/weights.md")
TEAL = (0.25, 0.5, 0.05, "#00a0a0")
RED = (0.75, 0.5, 0.05, "#c03020")


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    photograph().save(path)
    return path


def error_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert pretint.cli.main(words) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and len(err) < 600
    return err


def test_a_name_that_is_no_model(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        ["colorize", "eccv16", str(image)],
        ["colorize", str(image)],
        ["colorize", str(image), str(image)],
        ["studio", "eccv16"],
        ["studio", str(image)],
        ["score", "eccv16", "--images", str(tmp_path)],
    ):
        line = error_line(words, capsys)
        assert all(kind in line for kind in KINDS), line
    for words in (["colorize", str(image)], ["colorize", "eccv16", str(image)]):
        assert all(kind in error_line(words, capsys) for kind in ("reference:IMAGE", "scribbles"))
    assert "docs/weights.md" in error_line(["import", "eccv16", str(tmp_path / "run")], capsys)
    with pytest.raises(UserError, match=r"no images are named after eccv16"):
        colorize("eccv16", [], ColorizeSettings(out=tmp_path / "out"))
    with pytest.raises(UserError, match=r"docs/weights\.md"):
        import_weights(tmp_path / "eccv16", tmp_path / "run")


def test_the_page_on_weights_names_what_the_lines_promise() -> None:
    page = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    for name in ("colorization_release_v2-9b330a0b.pth", "siggraph17-df00044c.pth"):
        assert f"https://colorizers.s3.us-east-2.amazonaws.com/{name}" in page


def test_models_that_a_command_does_not_take(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "studio scribbles" in error_line(["studio", f"reference:{image}"], capsys)
    assert "scribbles, which needs no network" in error_line(["studio", "scribbles", "--size", "64"], capsys)
    for word in (f"reference:{image}", "scribbles"):
        assert "scribbles@hints=10" in error_line(["score", word, "--images", str(tmp_path)], capsys)


def test_studio_colors_by_scribbles_as_colorize_does(image: Path) -> None:
    table = OpenImages(None, "scribbles", 1_000_000)
    assert table.takes_hints and not table.has_distribution
    identity, lying = table.lay(image.read_bytes())
    gray = np.asarray(table.colored(identity, ViewSettings(0.38, 1)))
    assert np.array_equal(gray, np.asarray(table.gray(identity))) and np.ptp(gray, axis=2).max() <= 2
    look = ViewSettings(0.38, 1, hints=(TEAL, RED))
    size = lying.full.size
    hints = from_points(
        (x * size[0], y * size[1], radius * min(size), *ab_of(color)) for x, y, radius, color in look.hints
    )
    expected = np.asarray(colorize_image(scribbles_colorist(hints), Image.open(image)))
    assert np.array_equal(np.asarray(table.colored(identity, look)), expected)
    file, _ = table.file(identity, look, "png")
    (path := image.with_name("full.png")).write_bytes(file)
    assert np.array_equal(np.asarray(Image.open(path)), expected)
    assert np.ptp(np.asarray(table.colored(identity, ViewSettings(0.38, 0, hints=look.hints))), axis=2).max() <= 2


@pytest.mark.slow
def test_a_photograph_larger_than_the_page_shows() -> None:
    table = OpenImages(None, "scribbles", 4_000_000)
    identity, _ = table.lay(encode_image(photograph(1800, 900)))
    shown = np.asarray(table.colored(identity, ViewSettings(0.38, 1, hints=(TEAL, RED))))
    file, _ = table.file(identity, ViewSettings(0.38, 1, hints=(TEAL, RED)), "png")
    assert shown.shape == (700, 1400, 3) and len(file) > 10_000
    left, right = shown[350, 350].astype(int), shown[350, 1050].astype(int)
    assert left[2] - left[0] > 20 and right[0] - right[2] > 20, "teal on the left, red on the right"


@pytest.fixture
def site() -> Iterator[Site]:
    table = OpenImages(None, "scribbles", 1_000_000)
    with serve_app(lambda address: studio_app(table, 1, {"localhost"})) as site:
        yield site


def test_its_page_says_that_there_is_no_network(site: Site) -> None:
    with socket.create_connection(("localhost", int(site.address.rstrip("/").rpartition(":")[2])), 10) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        text = b"".join(iter(lambda: plain.recv(65536), b"")).decode()
    assert "No network: colors spread from your hints." in text and "Pick a color" in text
    assert 'data-hints="yes"' in text and "disabled" in text and "This network" not in text


def test_the_job_takes_scribbles(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[object] = []

    def serve(app: object, listener: socket.socket) -> ExitStatus:
        served.append(app)
        listener.close()
        return ExitStatus.TERMINATED

    monkeypatch.setattr("pretint.apps.web.server.serve", serve)
    said: list[str] = []
    with pytest.raises(SystemExit):
        studio("scribbles", StudioSettings(port=0), lambda *lines: said.extend(lines))
    assert served and said[0].startswith("studio: http://")
