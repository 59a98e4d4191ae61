"""Colorists of every kind of file: runs, exports, published weights by path; files with code in them are refused."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import pretint.cli
from pretext.errors import UserError
from pretext.recipe import build_colorizer
from pretext.weights.exporter import ExportSettings, export
from pretext.weights.importer import RELEASES, import_weights
from pretint.colorization import ColorizeSettings, colorize
from pretint.colorization.hints import from_points
from pretint.colorization.networks import open_network
from pretint.colorization.registry import open_colorist


def published(path: Path, number: int) -> Path:
    """A file of a release's layout, with random weights."""
    release = RELEASES[number]
    state = build_colorizer(release.settings, torch.full((313,), 1 / 313)).state_dict()
    names = {name: value for name, value in state.items() if not name.startswith("objective.")}
    weights = {
        release.published(name.removeprefix("backbone.")) if name.startswith("backbone.") else
        name.replace("head", release.head): value
        for name, value in names.items()
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for name, shape in release.aside.items():
        weights[name] = torch.randn(shape, generator=generator) * 0.01
    if number == 0:
        from pretext.gamut import bin_centers

        weights["model_out.weight"] = (torch.from_numpy(bin_centers()).float().T / 110).reshape(2, 313, 1, 1)
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def siggraph17(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("siggraph17") / "siggraph17.pth", 1)


@pytest.fixture(scope="module")
def eccv16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("eccv16") / "colorization_release_v2.pth", 0)


@pytest.mark.slow
def test_published_weights_by_path_are_those_that_are_imported(eccv16: Path, siggraph17: Path, tmp_path: Path) -> None:
    lightness = torch.rand(1, 1, 64, 72, generator=torch.Generator().manual_seed(1)) * 100
    for file in (eccv16, siggraph17):
        run, whole = tmp_path / file.stem, tmp_path / f"{file.stem}.safetensors"
        import_weights(file, run)
        export(run, whole, ExportSettings())
        one, *others = (open_network(path, "cpu")(lightness) for path in (file, run, whole))
        assert one.shape == (1, 2, 64, 72) and float(one.abs().max()) > 0
        assert all(torch.equal(one, other) for other in others)
        assert open_network(file, "cpu").size == 256


def test_hints_change_what_lies_around_them(siggraph17: Path) -> None:
    hints = from_points([(200, 300, 40, 60, -40)])
    free, given = open_network(siggraph17, "cpu", 64), open_network(siggraph17, "cpu", 64, hints=hints)
    lightness = torch.full((1, 1, 64, 96), 60.0)
    none, told = (colorist.predict(lightness, (960, 640)).ab for colorist in (free, given))
    assert torch.equal(none, free(lightness))
    by_hand = free.colorizer.colorize(lightness, 0.38, *hints.maps((640, 960), (64, 96)))
    assert torch.equal(told, by_hand)
    change = (told - none).abs().sum(1)[0]
    assert float(change[20:40, 10:30].mean()) > float(change[:, 80:].mean()) >= 0 and float(change.max()) > 0


@pytest.mark.slow
def test_hints_of_the_command(siggraph17: Path, eccv16: Path, tmp_path: Path) -> None:
    Image.effect_noise((90, 60), 40).save(tmp_path / "a.jpg")
    hints = tmp_path / "hints.yaml"
    hints.write_text("- {at: [30, 30], radius: 9, color: red}\n")
    words = [str(tmp_path / "a.jpg"), "--hints", str(hints), "--size", "64", "--device", "cpu"]
    assert pretint.cli.main(["colorize", str(siggraph17), *words, "--out", str(tmp_path / "told")]) == 0
    assert pretint.cli.main(["colorize", str(siggraph17), words[0], *words[3:], "--out", str(tmp_path / "free")]) == 0
    assert (tmp_path / "told" / "a.jpg").read_bytes() != (tmp_path / "free" / "a.jpg").read_bytes()
    settings = {"size": 64, "device": "cpu", "hints": hints, "out": tmp_path / "out"}
    with pytest.raises(UserError, match="takes no hints; siggraph17 does"):
        colorize(eccv16, [tmp_path / "a.jpg"], ColorizeSettings(**settings))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="hints are for one image, but 2 images are named"):
        colorize(siggraph17, [tmp_path / "a.jpg", tmp_path / "told" / "a.jpg"], ColorizeSettings(**settings))  # type: ignore[arg-type]
    hints.write_text("- {at: [90, 30], radius: 9, color: red}\n")
    with pytest.raises(UserError, match=r"outside the image: \(90, 30\), where x goes to 89 and y to 59"):
        colorize(siggraph17, [tmp_path / "a.jpg"], ColorizeSettings(**settings))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="predicts one color"):
        colorize(siggraph17, [tmp_path / "a.jpg"], ColorizeSettings(samples=1, out=tmp_path / "out"))


class Evil:
    """Writes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.mark), "w")


def test_files_with_code_in_them_are_refused(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for content in ({"model": Evil(mark)}, Evil(mark)):
        torch.save(content, tmp_path / "x.pth")
        with pytest.raises(UserError, match="would run code in the file") as error:
            open_colorist(tmp_path / "x.pth", "cpu")
        assert "\n" not in str(error.value) and not mark.exists()


def test_other_files(tmp_path: Path, eccv16: Path) -> None:
    (tmp_path / "x.txt").write_text("no weights")
    with pytest.raises(UserError, match="not a checkpoint of Pretint"):
        open_colorist(tmp_path / "x.txt", "cpu")
    with pytest.raises(UserError, match="no such run or checkpoint"):
        open_colorist(tmp_path / "nowhere", "cpu")
    weights = torch.load(eccv16, weights_only=True)
    del weights["model3.2.bias"]
    torch.save(weights, tmp_path / "cut.pth")
    with pytest.raises(UserError, match=r"ECCV16 .*1 missing \(model3\.2\.bias\)"):
        open_colorist(tmp_path / "cut.pth", "cpu")
