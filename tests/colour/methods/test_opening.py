"""The methods by name, and on real pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from colour.methods.enlarging import enlarged_rows, reduced, reduced_size
from colour.methods.opening import names_method, open_method
from colour.methods.reference import ReferenceColourist, ReferenceSettings
from colour.methods.scribbles import ScribblesColourist, ScribbleSettings
from colour.methods.strokes import from_hints, read_scribbles
from pretext.color import rgb_to_lab
from pretext.errors import UserError
from pretext.settings import plain, settings_from


@pytest.fixture
def scribbles(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text("- {at: [1, 2], colour: teal}")
    return path


def test_names() -> None:
    assert names_method("reference:a/b.jpg") and names_method("scribbles")
    assert not any(map(names_method, ("runs/mine", "reference", "scribbles.pt", "./scribbles")))


def test_methods_are_opened_with_their_settings(tmp_path: Path, scribbles: Path) -> None:
    Image.new("RGB", (9, 9), "teal").save(tmp_path / "r.png")
    one = open_method(f"reference:{tmp_path / 'r.png'}", reference_settings=ReferenceSettings(samples=7))
    assert isinstance(one, ReferenceColourist) and one.settings.samples == 7
    two = open_method("scribbles", scribbles, scribble_settings=ScribbleSettings(variance=2))
    assert isinstance(two, ScribblesColourist) and two.settings.variance == 2
    assert one(torch.rand(1, 1, 5, 4)).shape == two(torch.rand(1, 1, 5, 4)).shape == (1, 2, 5, 4)


def test_what_is_missing_is_said(tmp_path: Path, scribbles: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"")
    Image.new("L", (9, 9)).save(tmp_path / "gray.png")
    for name, file, said in (
        ("scribbles", None, "--scribbles FILE"),
        ("scribbles", tmp_path / "no.yaml", r"no\.yaml: cannot read"),
        ("reference:", None, "name the picture"),
        ("reference:no.jpg", None, r"no\.jpg: cannot read the reference \(No such file"),
        (f"reference:{tmp_path}", None, "cannot read the reference"),
        (f"reference:{tmp_path / 'x.jpg'}", None, "empty file"),
        (f"reference:{tmp_path / 'gray.png'}", None, r"gray\.png: has no colour"),
        ("reference:a.jpg", scribbles, "not used with reference:a.jpg"),
    ):
        with pytest.raises(UserError, match=said):
            open_method(name, file)


def test_settings_are_read_as_those_of_any_command() -> None:
    for kind, values in (
        (ReferenceSettings, {"samples": 9, "swatches": "a.yaml"}),
        (ScribbleSettings, {"variance": 2}),
    ):
        read = settings_from(kind, values, "x.yaml")
        assert all(getattr(read, name) == value for name, value in values.items())
        assert settings_from(kind, plain(read), "x.yaml") == read
    with pytest.raises(UserError, match=r"x\.yaml: variance is 0\.0: it must lie in"):
        settings_from(ScribbleSettings, {"variance": 0}, "x.yaml")


def test_a_picture_that_is_never_whole_in_memory_has_the_same_colour(tmp_path: Path) -> None:
    """Its L reduced, then rows of it: as the whole, but for scribbled pixels, which only the whole puts back."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "r.png")
    (tmp_path / "s.yaml").write_text("- {at: [7, 9], radius: 5, colour: teal}\n- {at: [40, 30], colour: red}")
    scribbles = read_scribbles(tmp_path / "s.yaml")
    lightness = torch.rand(45, 61) * 100
    for colourist in (
        open_method(f"reference:{tmp_path / 'r.png'}", reference_settings=ReferenceSettings(pixels=400)),
        open_method("scribbles", tmp_path / "s.yaml", scribble_settings=ScribbleSettings(pixels=400)),
    ):
        seen = reduced(lightness, reduced_size(45, 61, 400))
        assert colourist.seen_size((61, 45)) == (seen.shape[1], seen.shape[0])
        ab = colourist.at(seen, (45, 61))
        rows = [enlarged_rows(ab, seen, lightness[top : top + 13], top, 45) for top in range(0, 45, 13)]
        same = torch.ones(45 * 61, dtype=torch.bool)
        if isinstance(colourist, ScribblesColourist):
            same[torch.from_numpy(scribbles.on(45, 61).pixels)] = False
        whole = colourist(lightness[None, None])[0].view(2, -1)
        assert torch.equal(torch.cat(rows, 1).view(2, -1)[:, same], whole[:, same])


def test_a_real_picture_after_itself_and_from_its_own_colours(shared_data: Path) -> None:
    """After itself, and from a sparse grid of its own colours, a picture is nearer to the truth than gray is."""
    path = sorted((shared_data / "imagenet-sample").rglob("*.JPEG"))[7]
    with Image.open(path) as file:
        picture = file.convert("RGB")
    lab = rgb_to_lab(torch.from_numpy(np.array(picture)).permute(2, 0, 1))
    truth, lightness = lab[1:], lab[None, :1]
    gray = truth.square().mean().sqrt()
    assert gray > 5, "a picture with colour"
    after = open_method(f"reference:{path}", reference_settings=ReferenceSettings(samples=0))(lightness)[0]
    torch.testing.assert_close(after, truth, atol=60, rtol=0)
    assert (after - truth).square().mean().sqrt() < 0.9 * gray

    points = [
        (x + 0.5, y + 0.5, 0, *truth[:, y, x].tolist())
        for y in range(4, lab.shape[1], 8)
        for x in range(4, lab.shape[2], 8)
    ]
    spread = ScribblesColourist(from_hints(points), ScribbleSettings())(lightness)[0]
    assert (spread - truth).square().mean().sqrt() < 0.5 * gray
