"""The table: what the tool for files computes, kept in parts, so that a slider need not wait for the network."""

import io
import zlib

import numpy as np
import pytest
from colorize_files import encode_image, photograph, write_checkpoint
from PIL import Image

from pretext.errors import UserError
from pretint.apps.studio.photographs import SHOWN, OpenImages, ViewSettings, ab_of
from pretint.colorization.hints import from_points
from pretint.colorization.job import colorize_image
from pretint.colorization.merge import merge_image
from pretint.colorization.networks import NetworkColorist, open_network
from pretint.colorization.photographs import Photograph
from pretint.colorization.reference import ReferenceColorist, reference_colorist


def pixels(image: Image.Image | bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> NetworkColorist:
    return open_network(write_checkpoint(tmp_path_factory.mktemp("model") / "tiny.pt"), "cpu", 48)


@pytest.fixture(scope="module")
def hinted(tmp_path_factory: pytest.TempPathFactory) -> NetworkColorist:
    return open_network(write_checkpoint(tmp_path_factory.mktemp("model") / "siggraph.pt", hints=True), "cpu", 32)


@pytest.mark.parametrize("saturation", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("size", [(121, 90), (37, 700), (20, 20)])
def test_as_the_tool_for_files(tiny: NetworkColorist, size: tuple[int, int], saturation: float) -> None:
    image, table = photograph(*size), OpenImages(tiny, "tiny", 1_000_000)
    identity, _ = table.lay(encode_image(image))
    expected = pixels(colorize_image(tiny, image, saturation))
    look = ViewSettings(tiny.temperature, saturation)
    assert np.array_equal(pixels(table.file(identity, look, "png")[0]), expected)
    assert np.array_equal(pixels(table.colored(identity, look)), expected)
    if saturation == 0:
        assert np.ptp(expected.astype(int), axis=2).max() <= 1
        assert np.array_equal(pixels(table.gray(identity)), expected)


def test_temperature(tiny: NetworkColorist) -> None:
    image, table = photograph(), OpenImages(tiny, "tiny", 1_000_000)
    warm = NetworkColorist(tiny.colorizer, tiny.size, 1.1)
    found = table.colored(table.lay(encode_image(image))[0], ViewSettings(1.1, 1))
    assert np.array_equal(pixels(found), pixels(colorize_image(warm, image)))


def test_the_network_runs_once_for_a_photograph_and_its_hints(hinted: NetworkColorist) -> None:
    table, runs = OpenImages(hinted, "siggraph17", 1_000_000), []
    handle = hinted.colorizer.head.register_forward_hook(lambda *_: runs.append(1))
    identity, _ = table.lay(encode_image(photograph()))
    hint = (0.5, 0.5, 0.02, "#ff0000")
    for look, count in [
        (ViewSettings(0.4, 1), 1),
        (ViewSettings(0.9, 1), 1),
        (ViewSettings(0.9, 0.3), 1),
        (ViewSettings(0.9, 0.3, (hint,)), 2),
        (ViewSettings(0.1, 1, (hint,)), 2),
        (ViewSettings(0.1, 1), 2),
    ]:
        for ask in (table.colored, lambda *what: table.file(*what, "png")[0]):
            ask(identity, look)
            assert len(runs) == count, look
    handle.remove()


def test_a_hint_is_told_where_it_was_clicked(hinted: NetworkColorist) -> None:
    image, table = photograph(64, 32), OpenImages(hinted, "siggraph17", 1_000_000)
    identity, _ = table.lay(encode_image(image))
    found, notes = table.file(identity, ViewSettings(0.4, 1, ((0.625, 0.25, 0.1, "#ff0000"),)), "png")
    assert not notes
    hints = from_points([(40, 8, 3.2, *ab_of("#ff0000"))])
    expected = colorize_image(NetworkColorist(hinted.colorizer, hinted.size, 0.4, hints), image)
    assert np.array_equal(pixels(found), pixels(expected))
    assert not np.array_equal(pixels(found), pixels(table.file(identity, ViewSettings(0.4, 1), "png")[0]))
    corner = ViewSettings(0.4, 1, ((1.0, 1.0, 0.0, "#ff0000"), (0.0, 0.0, 0.5, "#00ff00")))
    assert len(table.file(identity, corner, "png")[0]), "the very edge is inside"


def test_a_network_without_hints_says_so(tiny: NetworkColorist, hinted: NetworkColorist) -> None:
    table = OpenImages(tiny, "tiny", 1_000_000)
    identity, _ = table.lay(encode_image(photograph()))
    with pytest.raises(UserError, match="takes no hints"):
        table.colored(identity, ViewSettings(0.4, 1, ((0.5, 0.5, 0.1, "#ff0000"),)))
    assert not tiny.takes_hints and hinted.takes_hints
    assert tiny.has_distribution and not hinted.has_distribution


def test_a_color_of_the_page_in_lab() -> None:
    assert ab_of("#808080") == pytest.approx((0, 0), abs=0.01)
    assert ab_of("#ff0000") == pytest.approx((80.09, 67.2), abs=0.05)  # the sRGB primary


def test_the_colors_of_a_reference(tiny: NetworkColorist) -> None:
    image, reference, table = photograph(), photograph(40, 30, seed=3), OpenImages(tiny, "tiny", 1_000_000)
    mine, other = table.lay(encode_image(image))[0], table.lay(encode_image(reference))[0]
    expected = pixels(colorize_image(reference_colorist(reference), image))
    assert np.array_equal(pixels(table.colored(mine, ViewSettings(0.4, 1, (), other))), expected)
    assert np.array_equal(pixels(table.file(mine, ViewSettings(0.4, 1, (), other), "png")[0]), expected)
    gray = table.lay(encode_image(Image.new("L", (20, 20), 99)))[0]
    with pytest.raises(UserError, match="The reference: has no color"):
        table.colored(mine, ViewSettings(0.4, 1, (), gray))
    with pytest.raises(UserError, match="The reference was closed"):
        table.colored(mine, ViewSettings(0.4, 1, (), "unknown"))


def test_a_reference_is_matched_once(tiny: NetworkColorist, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a slider moves; and again for another one, or at another size."""
    made: list[object] = []

    def counted(reference: Image.Image, name: str) -> ReferenceColorist:
        made.append(reference)
        return reference_colorist(reference, name=name)

    monkeypatch.setattr("pretint.apps.studio.photographs.reference_colorist", counted)
    table = OpenImages(tiny, "tiny", 10_000_000)
    mine = table.lay(encode_image(photograph(2000, 100)))[0]
    one, other = (table.lay(encode_image(photograph(40, 30, seed=seed)))[0] for seed in (3, 4))
    for saturation in (0.2, 0.9, 1.0):
        found = table.colored(mine, ViewSettings(0.4, saturation, (), one))
    assert len(made) == 1
    table.colored(mine, ViewSettings(0.4, 1, (), other))
    table.file(mine, ViewSettings(0.4, 1, (), one), "png")
    assert len(made) == 3
    assert np.array_equal(pixels(found), pixels(table.colored(mine, ViewSettings(0.4, 1, (), one)))) and len(made) == 3


def test_what_a_page_says_names_no_setting_of_the_command_line(tiny: NetworkColorist) -> None:
    table = OpenImages(tiny, "tiny", 1_000_000)
    with pytest.raises(UserError) as large:
        table.lay(encode_image(Image.new("L", (1500, 1000))))
    assert str(large.value) == "This file: has 2 megapixels; the studio takes at most 1"
    identity = table.lay(encode_image(Image.new("RGBA", (20, 20), (200, 0, 0, 90))))[0]
    with pytest.raises(UserError) as transparent:
        table.file(identity, ViewSettings(0.4, 1), "jpeg")
    assert str(transparent.value) == "This photograph is partly transparent, so it cannot be a JPEG; choose PNG."


def test_large_photographs_are_shown_small_and_given_whole(tiny: NetworkColorist) -> None:
    table = OpenImages(tiny, "tiny", 10_000_000)
    image = photograph(2000, 1000)
    identity, laid = table.lay(encode_image(image, "TIFF"))
    look = ViewSettings(tiny.temperature, 1)
    assert laid.shown.size == (SHOWN, SHOWN // 2) == table.colored(identity, look).size
    assert np.array_equal(pixels(table.file(identity, look, "png")[0]), pixels(colorize_image(tiny, image)))
    assert Image.open(io.BytesIO(table.file(identity, look, "jpeg")[0])).format == "JPEG"
    ab = tiny(Photograph.of(image).seen(tiny.seen_size(image.size)))
    assert np.array_equal(pixels(table.colored(identity, look)), pixels(merge_image(laid.shown, ab)))


def test_a_download_keeps_what_belongs_to_the_photograph(tiny: NetworkColorist) -> None:
    image, exif = photograph().convert("RGBA"), Image.Exif()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    exif[0x010E] = "of grandmother"
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    table = OpenImages(tiny, "tiny", 1_000_000)
    identity, _ = table.lay(buffer.getvalue())
    with Image.open(io.BytesIO(table.file(identity, ViewSettings(0.4, 1), "png")[0])) as file:
        assert file.getexif()[0x010E] == "of grandmother"
        assert np.array_equal(np.asarray(file)[..., 3], np.asarray(image)[..., 3])
    with pytest.raises(UserError, match="partly transparent"):
        table.file(identity, ViewSettings(0.4, 1), "jpeg")


@pytest.mark.parametrize("data", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"<svg onload='x'/>"])
def test_what_is_no_image_is_a_line(tiny: NetworkColorist, data: bytes) -> None:
    with pytest.raises(UserError, match="This file: ") as said:
        OpenImages(tiny, "tiny", 1_000_000).lay(data)
    assert "\n" not in str(said.value)


def test_too_many_pixels_are_refused_by_the_head_of_the_file(tiny: NetworkColorist) -> None:
    with pytest.raises(UserError, match="megapixels"):
        OpenImages(tiny, "tiny", 59_999).lay(encode_image(Image.new("L", (300, 200))))
    bomb = encode_image(Image.new("1", (300, 200)))
    width = bomb.index(b"IHDR") + 4
    huge = bomb[:width] + (200_000).to_bytes(4, "big") * 2 + bomb[width + 8 :]
    head = huge[width - 4 : width + 13]
    huge = huge[: width + 13] + zlib.crc32(head).to_bytes(4, "big") + huge[width + 17 :]
    with pytest.raises(UserError, match="40,000 megapixels"):
        OpenImages(tiny, "tiny", 1_000_000).lay(huge)


def test_photographs_not_used_for_longest_are_put_away(tiny: NetworkColorist) -> None:
    table = OpenImages(tiny, "tiny", 10_000)
    first, second = (table.lay(encode_image(photograph(90, 90)))[0] for _ in range(2))
    table.get(first)
    third = table.lay(encode_image(photograph(90, 90)))[0]  # a third is more than twice what one may have
    with pytest.raises(UserError, match="was closed"):
        table.get(second)
    assert table.get(first) and table.get(third)
    many = [table.lay(encode_image(photograph(8, 8)))[0] for _ in range(9)]
    assert table.get(many[-1])
    with pytest.raises(UserError):
        table.get(many[0])
