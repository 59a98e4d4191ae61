"""Images and settings that cannot be scored, or only in part."""

import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_scores import Make, score_small

from pretext.data import Folder
from pretext.errors import UserError
from pretint.colorization import ScoreSettings, score


def test_nothing_to_score(tmp_path: Path, make_images: Make) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_text("no image")
    out = str(tmp_path / "out")
    cases = [
        ("", "no images are named"),
        (str(tmp_path / "none"), "no such folder"),
        (str(tmp_path / "empty"), "the folder is empty"),
        (str(make_images(tmp_path / "gray", 0, gray=3)), "3 of 3 images are gray, 0 cannot be read; a score needs"),
        (str(make_images(tmp_path / "one", 1, gray=1)), "1 of 2 images are gray"),
        (str(tmp_path / "bad"), r"1 cannot be read \(the first: x.png: not an image"),
    ]
    for name, said in cases:
        with pytest.raises(UserError, match=said):
            score(["gray"], ScoreSettings(images=name, out=out))


def test_unreadable_ones_are_listed(tmp_path: Path, make_images: Make) -> None:
    folder = make_images(tmp_path / "x", 3)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff half an image")
    for _ in range(2):  # and again when nothing is read any more
        found = score_small(["gray"], folder, out=str(tmp_path / "out"))
        assert [key for key, _ in found.skipped] == ["bad.jpg"] and found.facts["n"] == 3


def test_damaged_metadata_is_no_news(tmp_path: Path, make_images: Make) -> None:
    folder = make_images(tmp_path / "x", 3)
    damaged = b"Exif\0\0II*\0\x08\0\0\0\x02\0\x12\x01\x03\0\xff\xff\0\0\x06\0"
    with Image.open(folder / "00.png") as image:
        image.convert("RGB").save(folder / "odd.jpg", exif=damaged)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Folder(folder).read(3)
    assert seen, "the damage is one that Pillow tells of"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert score_small(["gray"], folder, out=str(tmp_path / "out")).facts["n"] == 4
    assert not seen


def test_a_method_that_gives_another_size(
    run: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pretext.methods.colorization import Colorizer

    monkeypatch.setattr(
        Colorizer, "colorize", lambda self, lightness, temperature: torch.zeros(len(lightness), 2, 9, 9)
    )
    with pytest.raises(UserError, match=r"plain: gave colors of \(9, 9\) pixels for images of \(32, 32\)"):
        score_small([run], images, out=str(tmp_path), seed=9)
    monkeypatch.setattr(
        Colorizer, "colorize", lambda self, lightness, temperature: torch.full((len(lightness), 2, 32, 32), torch.nan)
    )
    with pytest.raises(UserError, match="NaN or infinite"):
        score_small([run], images, out=str(tmp_path), seed=9)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"size": 8}, "size is 8"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": 1e-300}, r"temperature is 1e-300: it must lie in \[0.01, inf\)"),
        ({"gray_threshold": -1.0}, "gray_threshold is -1.0"),
        ({"batch": 0}, "batch is 0"),
        ({"disjoint": "x"}, "needs weights of Inception"),
        ({"disjoint": "x", "inception": "y", "images": "x"}, "name others"),
    ],
)
def test_settings_that_are_wrong(changed: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        ScoreSettings(**changed)  # type: ignore[arg-type]


def test_where_scores_go(run: Path, images: Path) -> None:
    with pytest.raises(UserError, match="name a folder for them with --out"):
        score_small(["gray"], images)
    with pytest.raises(UserError, match="against is red, which is not scored"):
        score_small([run], images, against="red")
    assert score_small([run], images).file.parent == run / "scores"


def test_an_image_alone_in_its_size(run: Path, tmp_path: Path, make_images: Make) -> None:
    folder = make_images(tmp_path / "x", 2)
    Image.new("RGB", (1, 300), (200, 40, 40)).save(folder / "thin.png")
    Image.new("RGB", (1, 1), (20, 140, 40)).save(folder / "dot.png")
    assert score_small([run], folder, out=str(tmp_path / "out")).facts["n"] == 4
