"""A network that has learned nothing is not taken for one that has."""

from pathlib import Path
from typing import Any

import pytest
import torch
from colorize_files import encode_image, photograph
from torch import Tensor

import pretint.cli
from pretext import ExportSettings, export, load_pretrained
from pretext.engine.checkpoint import save_checkpoint
from pretext.engine.signals import ExitStatus
from pretext.pretrained import color_contract
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import settings_from, to_plain
from pretint.apps.studio.serve import StudioSettings, studio
from pretint.colorization import ColorizeSettings, colorize, score
from pretint.colorization.networks import ColorRange, NetworkColorist
from pretint.colorization.scores.job import ScoreSettings

UNTRAINED = "the network is untrained (step 0)"
UNIFORM = "the same color"


def checkpoint(path: Path, step: int, head: float = 1.0, **more: Any) -> Path:
    """A small network; its head's weights, but not its bias, are multiplied: at 0 it says one color everywhere."""
    settings = settings_from(PretrainSettings, {"crop": {"size": 32}}, "test")
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    model = build_colorizer(settings, prior).state_dict()
    model["head.weight"] *= head
    model["head.bias"] = torch.linspace(-3, 3, 313)
    state = {"step": step, "settings": to_plain(settings), "color": color_contract(settings, prior), "model": model}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(path, {**state, **more})
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for at in range(3):
        (folder / f"{at}.png").write_bytes(encode_image(photograph(64, 48, at)))
    return folder


def lines_of(model: Path, images: Path, out: Path) -> list[str]:
    done = colorize(model, [images], ColorizeSettings(out=out, device="cpu"))
    assert len(done.written) == 3
    return [note for key, note in done.notes if key == str(model)]


def test_a_run_before_its_first_step(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh = checkpoint(tmp_path / "fresh.pt", 0, head=0)
    untrained, uniform = lines_of(fresh, images, tmp_path / "a")
    assert UNTRAINED in untrained and UNIFORM in uniform and "3 images" in uniform
    assert load_pretrained(fresh).untrained
    assert pretint.cli.main(["colorize", str(fresh), str(images), "--out", str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [f"{fresh}: {untrained}", f"{fresh}: {uniform}"]


def test_a_trained_run_that_gives_one_color(images: Path, tmp_path: Path) -> None:
    (line,) = lines_of(checkpoint(tmp_path / "flat.pt", 7, head=0), images, tmp_path / "a")
    assert UNIFORM in line
    assert lines_of(checkpoint(tmp_path / "lively.pt", 7, head=300), images, tmp_path / "b") == []


def test_a_call_that_goes_on_says_it_of_all_images(images: Path, tmp_path: Path) -> None:
    flat, out = checkpoint(tmp_path / "flat.pt", 7, head=0), tmp_path / "out"
    first = lines_of(flat, images, out)
    assert lines_of(flat, images, out) == first, "of results that stand"
    (out / "1.png").unlink()
    assert lines_of(flat, images, out) == first, "of some that stand"


def test_published_weights_have_learned(images: Path, tmp_path: Path) -> None:
    """An import is a run of no steps, too, and so is what is exported of it."""
    file = checkpoint(tmp_path / "imported.pt", 0, head=300, imported_from="eccv16.pth")
    assert lines_of(file, images, tmp_path / "a") == []
    done = export(file, tmp_path / "x.safetensors", ExportSettings())
    assert not any(UNTRAINED in note for note in done.notes)
    assert lines_of(tmp_path / "x.safetensors", images, tmp_path / "b") == []


@pytest.mark.slow
@pytest.mark.parametrize("format", ["safetensors", "onnx"])
def test_an_export_of_random_weights_says_so(format: Any, tmp_path: Path) -> None:
    ending = "onnx" if format == "onnx" else "safetensors"
    file = tmp_path / f"x.{ending}"
    done = export(checkpoint(tmp_path / "fresh.pt", 0), file, ExportSettings(format=format))
    assert [note for note in done.notes if UNTRAINED in note]
    if format == "safetensors":
        assert load_pretrained(file).untrained


def test_scores(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh, flat, lively = (
        checkpoint(tmp_path / name / "checkpoints" / "00000000.pt", step, head)
        for name, step, head in (("fresh", 0, 300), ("flat", 7, 0), ("lively", 7, 300))
    )
    settings = ScoreSettings(images=str(images), out=str(tmp_path / "scores"), size=32, device="cpu")
    for _ in range(2):  # the second time from what is kept
        notes = [note for note in score([fresh, flat, lively], settings).notes if "warning" in note]
        assert len(notes) == 2 and UNTRAINED in notes[0] and UNIFORM in notes[1]
    words = ["score", str(flat), "--images", str(images), "--out", str(tmp_path / "scores"), "--size", "32"]
    assert pretint.cli.main(words) == 0
    assert UNIFORM in capsys.readouterr().out


def test_the_studio_says_it_when_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pretint.apps.web.server.serve", lambda app, listener: listener.close() or ExitStatus.TERMINATED
    )
    said: list[str] = []
    with pytest.raises(SystemExit):
        studio(checkpoint(tmp_path / "fresh.pt", 0), StudioSettings(port=0), lambda *lines: said.extend(lines))
    assert UNTRAINED in said[-1]


def test_methods_without_a_network_may_give_one_color(images: Path, tmp_path: Path) -> None:
    teal = tmp_path / "teal.png"
    teal.write_bytes(encode_image(photograph(32, 32).point(lambda value: value // 3 + 60)))
    done = colorize(f"reference:{teal}", [images], ColorizeSettings(out=tmp_path / "out"))
    assert not any("warning" in note for _, note in done.notes)


def test_the_range_is_of_all_images_together() -> None:
    def colors(*values: tuple[float, float]) -> Tensor:
        return torch.tensor(values).T[None, :, None]

    found = ColorRange()
    assert found.describe_uniform() == ""
    assert found.add(colors((10, -5), (10.5, -5.2))) == [10, 10.5, pytest.approx(-5.2), -5]
    assert UNIFORM in found.describe_uniform() and "of 1 image gets" in found.describe_uniform()
    found.add(colors((10.9, -5)))
    assert "of 2 images gets" in found.describe_uniform() and "a 10, b -5" in found.describe_uniform()
    found.add(colors((11.0, -5)))
    assert found.describe_uniform() == "", "a varies by 1"


def test_gray_results_have_a_line_each_and_no_more(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = NetworkColorist.decode
    monkeypatch.setattr(NetworkColorist, "decode", lambda *words, **more: 0.01 * decode(*words, **more))
    done = colorize(checkpoint(tmp_path / "x.pt", 7, head=0), [images], ColorizeSettings(out=tmp_path / "out"))
    assert [note for _, note in done.notes] == ["the result is gray: almost no color was predicted"] * 3
