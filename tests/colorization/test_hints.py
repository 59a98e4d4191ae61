"""Hints read from images and lists; what cannot be meant is refused in one line."""

import io
import math
import os
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageDraw

from pretext.color import rgb_to_ab
from pretext.errors import UserError
from pretint.colorization.hints import Hints, KnownPixels, Stroke, from_points, hints_of_image, read_hints


def ab_of(*rgb: int) -> list[float]:
    found: list[float] = rgb_to_ab(torch.tensor(rgb, dtype=torch.float64).view(3, 1, 1) / 255).flatten().tolist()
    return found


def dots(hints: list[tuple[float, float, float, float, float]]) -> Hints:
    return Hints("hints", tuple(Stroke(((x, y),), radius, (a, b)) for x, y, radius, a, b in hints))


def png(image: Image.Image, **how: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **how)
    return buffer.getvalue()


def listed(folder: Path, text: str) -> Path:
    path = folder / "hints.yaml"
    path.write_text(text)
    return path


def test_strokes_on_a_transparent_ground() -> None:
    layer = Image.new("RGBA", (9, 6))
    layer.putpixel((2, 1), (200, 30, 30, 255))
    layer.putpixel((8, 5), (90, 90, 90, 200))  # gray, and not quite opaque
    layer.putpixel((0, 0), (0, 0, 255, 100))  # mostly transparent
    given = hints_of_image(png(layer), "x.png").on(6, 9)
    assert given.pixels.tolist() == [1 * 9 + 2, 5 * 9 + 8]
    np.testing.assert_allclose(given.ab, [ab_of(200, 30, 30), [0, 0]], atol=0.01)


@pytest.mark.parametrize(("kind", "how"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("GIF", {})])
def test_formats_that_can_be_transparent(kind: str, how: dict[str, object], tmp_path: Path) -> None:
    layer = Image.new("RGBA", (9, 6))
    ImageDraw.Draw(layer).line((1, 2, 5, 2), fill=(0, 128, 128, 255))
    layer.save(tmp_path / "x", kind, **how)
    given = read_hints(tmp_path / "x").on(6, 9)
    assert given.pixels.tolist() == [2 * 9 + x for x in range(1, 6)]
    np.testing.assert_allclose(given.ab, np.tile(ab_of(0, 128, 128), (5, 1)), atol=0.01)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_strokes_on_a_gray_photograph(mode: str) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
    gray[0, :8] = 255 * (np.arange(8) % 2)
    image = Image.fromarray(gray // 32 * 32).convert("RGB")
    ImageDraw.Draw(image).rectangle((4, 5, 11, 7), fill=(20, 120, 220))
    given = hints_of_image(
        png(image.quantize(16, dither=Image.Dither.NONE) if mode == "P" else image.convert(mode)), "x.png"
    ).on(20, 30)
    assert given.pixels.tolist() == [y * 30 + x for y in (5, 6, 7) for x in range(4, 12)]
    np.testing.assert_allclose(given.ab, np.tile(ab_of(20, 120, 220), (24, 1)), atol=0.01)


@pytest.mark.parametrize("ground", [(0, 0, 0, 0), (255, 255, 255, 255)])
def test_a_turned_file_is_read_upright(ground: tuple[int, int, int, int]) -> None:
    layer = Image.new("RGBA", (7, 4), ground)
    layer.putpixel((6, 0), (255, 0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees: 4 wide, 7 high, upper right corner to the lower right
    assert hints_of_image(png(layer, exif=exif), "x.png").on(7, 4).pixels.tolist() == [6 * 4 + 3]


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (Image.new("RGBA", (5, 5)), "no hints: no pixel is half opaque"),
        (Image.new("RGB", (5, 5), "white"), "no hints: nothing in it is transparent, and no pixel is colored"),
        (Image.new("L", (5, 5)), "no hints"),
        (Image.new("RGB", (5, 5), "red"), "every pixel is colored"),
    ],
)
def test_images_without_hints(image: Image.Image, said: str) -> None:
    with pytest.raises(UserError, match=said):
        hints_of_image(png(image), "x.png")


def test_a_file_that_is_no_image_or_missing(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="not an image"):
        read_hints(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"y\.png: cannot read the hints \(No such file"):
        read_hints(tmp_path / "y.png")
    with pytest.raises(UserError, match="cannot read"):
        read_hints(tmp_path)


def test_another_size_is_refused() -> None:
    layer = Image.new("RGBA", (9, 6))
    layer.putpixel((2, 1), (200, 30, 30, 255))
    hints = hints_of_image(png(layer), "x.png")
    with pytest.raises(UserError, match=r"x\.png: has 9 x 6 pixels, the image 6 x 9"):
        hints.on(9, 6)


def test_a_list_of_points_and_strokes(tmp_path: Path) -> None:
    hints = read_hints(
        listed(
            tmp_path,
            """
            - {at: [3, 2], color: "#c81e1e"}
            - {stroke: [[10, 5], [14, 5], [14, 8]], color: [0, 128, 128]}
            - {at: [25, 12], radius: 2, ab: [12.5, -30]}
            """,
        )
    )
    given = hints.on(20, 30)
    corner = [5 * 30 + x for x in range(10, 15)] + [y * 30 + 14 for y in (6, 7, 8)]
    disc = [y * 30 + x for y in range(20) for x in range(30) if (x - 25) ** 2 + (y - 12) ** 2 <= 4]
    assert given.pixels.tolist() == sorted([2 * 30 + 3, *corner, *disc])
    by_pixel = dict(zip(given.pixels.tolist(), given.ab.tolist(), strict=True))
    np.testing.assert_allclose(by_pixel[2 * 30 + 3], ab_of(200, 30, 30), rtol=1e-6)
    np.testing.assert_allclose(by_pixel[corner[-1]], ab_of(0, 128, 128), rtol=1e-6)
    assert by_pixel[12 * 30 + 25] == [12.5, -30]


def test_strokes_cover_what_lies_within_their_radius() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        points = random.uniform(0, 19, (random.integers(1, 4), 2))
        radius = float(random.choice([0, 1.2, 4]))
        text = Hints("x", (dots([(0, 0, radius, 1, 2)]).strokes[0]._replace(points=tuple(map(tuple, points))),))
        covered = []
        for y in range(20):
            for x in range(20):
                apart = [math.dist((x, y), points[0])]
                for (x0, y0), (x1, y1) in pairwise(points):
                    t = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
                    t = min(max(t, 0), 1)
                    apart.append(math.dist((x, y), (x0 + t * (x1 - x0), y0 + t * (y1 - y0))))
                if min(apart) <= max(radius, 0.71):
                    covered.append(y * 20 + x)
        assert text.on(20, 20).pixels.tolist() == covered and covered


@pytest.mark.parametrize("point", [(-1, 0), (0, -0.6), (30, 0), (0, 19.5), (29.5, 3)])
def test_a_point_outside_the_image(point: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=r"hints: hint 2 has a point outside the image: .* x goes to 29 and y to 19"):
        dots([(5, 5, 1, 0, 9), (*point, 3, 1, 2)]).on(20, 30)
    assert len(dots([(29.4, 19.4, 0, 1, 2), (-0.5, -0.5, 0, 1, 2)]).on(20, 30).pixels) == 2


def test_of_two_that_overlap_the_later_counts() -> None:
    given = dots([(5, 5, 3, 0, 9), (20, 5, 1, 0, 0), (8, 5, 3, 1, 9)]).on(20, 30)
    painted = np.full((20, 30, 2), np.nan)
    for x, radius, ab in ((5, 3, (0, 9)), (20, 1, (0, 0)), (8, 3, (1, 9))):
        for row in range(20):
            for column in range(30):
                if math.dist((column, row), (x, 5)) <= radius:
                    painted[row, column] = ab
    assert given.pixels.tolist() == np.flatnonzero(~np.isnan(painted[..., 0])).tolist()
    np.testing.assert_array_equal(given.ab, painted.reshape(-1, 2)[given.pixels])


# Nine lists, each of ten times the one before it: a thousand million numbers in half a kilobyte.
BOMB = "- &a [1, 2]\n" + "".join(f"- &{name} [{', '.join([f'*{was}'] * 10)}]\n" for was, name in pairwise("abcdefghi"))
BOMB_FLOW = (
    "[&a [1, 2], " + ", ".join(f"&{name} [{', '.join([f'*{was}'] * 10)}]" for was, name in pairwise("abcdefghi")) + "]"
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no hints"),
        ("[]", "no hints"),
        ("at: [1, 2]", "no hints"),
        ("- red", "hint 1: is 'red'"),
        ("- {at: [1, 2], color: red, size: 3}", "hint 1: 'size' is unknown; known are ab, at, color"),
        ("- {at: [1, 2]}", "give one of at and stroke, and one of color and ab"),
        ("- {color: red}", "give one of at and stroke"),
        ("- {at: [1, 2], stroke: [[1, 2]], color: red}", "give one of at and stroke"),
        ("- {at: [1, 2], color: red, ab: [1, 2]}", "one of color and ab"),
        ("- {at: [1], color: red}", r"at is \[1\]; a point is"),
        ("- {at: [1, .nan], color: red}", "a point is"),
        ("- {at: [1, true], color: red}", "a point is"),
        ("- {stroke: [1, 2], color: red}", r"stroke is \[1, 2\]"),
        ("- {stroke: [], color: red}", "a point is"),
        ("- {at: [1, 2], color: rot}", "color is 'rot'; give a name"),
        ("- {at: [1, 2], color: }", "color is None; give a name"),
        ("- {at: [1, 2], color: [1, 2, 256]}", "color is"),
        ("- {at: [1, 2], ab: [1, 200]}", r"ab is \[1, 200\]; it is \[a, b\], both in"),
        ("- {at: [1, 2], ab: [1, .inf]}", "ab is"),
        ("- {at: [1, 2], ab: [1, 2], radius: -1}", "radius is -1"),
        ("- {at: [1, 2], ab: [1, 2], radius: .inf}", "radius is inf"),
        ("- {at: [1, 2], ab: [1, 2], radius: wide}", "radius is 'wide'"),
        ("- {at: [1, 2], color: 'rgb(9999,0,0)'}", r"color is 'rgb\(9999,0,0\)'; give a name"),
        ("- {at: [1, 2], color: 'hsv(0,500%,900%)'}", "color is"),
        (f"- {{at: [1, 2], color: red, radius: {'9' * 400}}}", "radius is 999"),
        (f"- {{at: [1, {'9' * 400}], color: red}}", r"at is \[1, 999"),
        (f"- {{at: [1, 2], ab: [{'9' * 400}, 1]}}", r"ab is \[999"),
        (f"- {{at: [1, 2], color: [1, 2, {'9' * 400}]}}", "color is"),
        (f"- {{at: [1, 2], color: red, radius: 0x{'f' * 5000}}}", "a number of 5,002 digits"),
        (f"- at: [1, 2]\n  color: red\n  ? 0x{'f' * 5000}\n  : 1", "a number of 5,002 digits"),
        ("- {at: [1, 2], color: red, radius: " + BOMB_FLOW + "}", "aliases repeat"),
        (BOMB, "aliases repeat"),
        ("- &x [*x]", "contains itself"),
        ("- !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("- {at: [", "not valid YAML"),
    ],
)
def test_lists_that_are_not_understood(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said) as caught:
        read_hints(listed(tmp_path, text))
    assert "\n" not in str(caught.value) and "hints.yaml" in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 300


def test_hints_are_counted_from_the_corner_of_the_image() -> None:
    assert from_points([(7.5, 4.5, 0, 1, 2)]).on(20, 30).pixels.tolist() == [4 * 30 + 7]
    assert from_points([(0.1, 0.2, 0, 1, 2), (29.9, 19.8, 0, 3, 4)]).on(20, 30).pixels.tolist() == [0, 20 * 30 - 1]
    middles = [(x + 0.5, y + 0.5) for y in range(20) for x in range(30)]
    disc = [pixel for pixel, middle in enumerate(middles) if math.dist(middle, (20.9, 10.1)) <= 2.3]
    assert from_points([(20.9, 10.1, 2.3, 3, 4)]).on(20, 30).pixels.tolist() == disc


def test_an_empty_list_is_no_hints() -> None:
    with pytest.raises(UserError, match="hints: no hints"):
        dots([]).on(3, 3)


def test_reducing_takes_the_mean_of_a_cell() -> None:
    given = KnownPixels(np.array([0, 1, 12, 59]), np.array([[1.0, 2], [3, 4], [8, 9], [-5, 5]]))  # of 6 x 10
    less = given.resized((6, 10), (3, 5))
    assert less.pixels.tolist() == [0, 1, 14]
    np.testing.assert_allclose(less.ab, [[2, 3], [8, 9], [-5, 5]])
    assert given.resized((6, 10), (6, 10)) is given


@pytest.mark.parametrize("seen", [(6, 10), (3, 5), (4, 3), (13, 25), (12, 4), (2, 21)])
def test_maps_of_a_network_cover_what_the_pixels_cover(seen: tuple[int, int]) -> None:
    """Against every pixel and cell in turn: a cell has a pixel's color if it holds the pixel's upper left corner, or
    begins within the pixel."""
    hints = Hints(
        "x", (), KnownPixels(np.array([0, 13, 14, 59]), np.array([[1.0, 2], [3, 4], [8, 9], [-5, 5]])), (6, 10)
    )
    ab, mask = hints.maps((6, 10), seen)
    told: dict[tuple[int, int], list[list[float]]] = {}
    for pixel, color in zip(hints.drawn.pixels, hints.drawn.ab, strict=True):  # type: ignore[union-attr]
        places = []
        for at, side, to in ((pixel // 10, 6, seen[0]), (pixel % 10, 10, seen[1])):
            holds = at * to // side
            places.append({holds} | {cell for cell in range(to) if at * to // side <= cell < (at + 1) * to // side})
        for row in places[0]:
            for column in places[1]:
                told.setdefault((row, column), []).append(color.tolist())
    assert {tuple(place) for place in mask[0, 0].nonzero().tolist()} == told.keys()
    for (row, column), colors in told.items():
        np.testing.assert_allclose(ab[0, :, row, column], np.mean(colors, 0), rtol=1e-6)
    assert float(ab[0][:, mask[0, 0] == 0].abs().sum()) == 0


@pytest.mark.parametrize(
    "text", ["- {stroke: [[1, 2]%s], color: red}", "- &s {stroke: [[1, 2]%s], color: red}\n- *s\n- *s"]
)
def test_too_many_points_are_refused(text: str, tmp_path: Path) -> None:
    count = 20_000 if "*s" not in text else 7_000
    with pytest.raises(UserError, match="more than 20,000 points; give an image of them instead"):
        read_hints(listed(tmp_path, text % (", [3, 4]" * count)))


def test_a_stroke_of_as_many_points_as_may_be_is_painted_at_once() -> None:
    """Their boxes, each about the whole image, have 4 GB of pixels: it took a minute, and is a matter of rows now."""
    points = np.random.default_rng(0).uniform(0, 300, (20_000, 2)).tolist()
    hints = Hints("x", (Stroke(tuple((x, y) for x, y in points), 0, (1, 2)),))
    before = time.process_time()
    assert len(hints.on(301, 301).pixels) > 80_000
    assert time.process_time() - before < 10


def test_strips_leave_no_seam(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    strokes = [Stroke(tuple(map(tuple, random.uniform(0, 39, (3, 2)))), 2.5, (number, 0)) for number in range(9)]
    layer = Image.fromarray(random.integers(0, 256, (40, 40, 4), np.uint8))
    found = [Hints("x", tuple(strokes)).on(40, 40), hints_of_image(png(layer), "x").on(40, 40)]
    found.append(found[1].resized((40, 40), (17, 90)))
    monkeypatch.setattr("pretint.colorization.hints._STRIP", 130)
    monkeypatch.setattr("pretint.colorization.hints._SPANS", 1)
    again = [Hints("x", tuple(strokes)).on(40, 40), hints_of_image(png(layer), "x").on(40, 40)]
    again.append(again[1].resized((40, 40), (17, 90)))
    for one, other in zip(found, again, strict=True):
        assert len(one.pixels) > 400 and np.array_equal(one.pixels, other.pixels)
        np.testing.assert_allclose(one.ab, other.ab, atol=1e-3)


@pytest.mark.parametrize("name", ["x.png", "x.yaml"])
def test_what_is_no_regular_file_is_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / f"zero-{name}").symlink_to("/dev/zero")
    for path in (tmp_path / name, tmp_path / f"zero-{name}"):
        with pytest.raises(UserError, match="cannot read the hints: it is not a regular file"):
            read_hints(path)


def test_an_image_as_large_as_a_photograph_may_be(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Beyond Pillow's own limit, of which nothing is heard."""
    image = Image.new("P", (12_000, 9_000))
    image.putpalette([255, 255, 255, 200, 30, 30])
    image.putpixel((11_999, 8_999), 1)
    image.save(tmp_path / "x.png", compress_level=1)
    given = read_hints(tmp_path / "x.png").on(9_000, 12_000)
    assert given.pixels.tolist() == [12_000 * 9_000 - 1] and not recwarn.list
    np.testing.assert_allclose(given.ab, [ab_of(200, 30, 30)], atol=1e-3)


def test_sixteen_bits_and_gray_with_alpha(tmp_path: Path) -> None:
    image = np.full((6, 9, 3), 40_000, np.uint16)
    image[2, 3] = (52_000, 9_000, 9_000)
    tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb")
    given = read_hints(tmp_path / "x.tif").on(6, 9)
    assert given.pixels.tolist() == [2 * 9 + 3]
    layer = Image.new("LA", (9, 6))
    layer.putpixel((4, 5), (90, 128))
    assert hints_of_image(png(layer), "x.png").on(6, 9).pixels.tolist() == [5 * 9 + 4]
