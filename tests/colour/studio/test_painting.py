"""Painting: what the tool for files computes, in parts, so that a slider need not wait for the network."""

import io
import threading
import zlib

import numpy as np
import pytest
import torch
from painters import checkpoint, file_of, photograph
from PIL import Image
from pretext.colorizing import colorize_picture

from colour.studio.painting import Hint, Painter, ab_of, hint_maps, painted, reference_colours
from colour.studio.photographs import SHOWN, Look, Table, encoded
from colour.studio.workshop import Crowded, Superseded, Workshop
from pretext.color import rgb_to_lab
from pretext.errors import UserError


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Painter:
    return Painter(checkpoint(tmp_path_factory.mktemp("model") / "tiny.pt"), "cpu", 48)


@pytest.fixture(scope="module")
def hinted(tmp_path_factory: pytest.TempPathFactory) -> Painter:
    return Painter(checkpoint(tmp_path_factory.mktemp("model") / "siggraph.pt", hints=True), "cpu", 32)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
@pytest.mark.parametrize("size", [(121, 90), (37, 700), (20, 20)])
def test_in_parts_as_at_once(painter: Painter, size: tuple[int, int], temperature: float) -> None:
    picture = photograph(*size)
    ab = painter.colours(painter.see(picture), temperature)
    assert np.array_equal(
        np.asarray(painted(picture, ab)), np.asarray(colorize_picture(painter.colorizer, picture, 48, temperature))
    )


def test_saturation_scales_ab_and_none_is_gray() -> None:
    picture, ab = photograph(), torch.tensor([12.0, -9.0]).reshape(1, 2, 1, 1)
    for saturation in (0.0, 0.5, 1.0):
        lab = rgb_to_lab(torch.from_numpy(np.array(painted(picture, ab, saturation))).permute(2, 0, 1))
        assert (lab[1] - 12 * saturation).abs().max() < 1.5 and (lab[2] + 9 * saturation).abs().max() < 1.5
    gray = np.asarray(painted(picture, ab, 0.0)).astype(int)
    assert np.ptp(gray, axis=2).max() <= 1


def test_the_network_runs_once_for_a_photograph_and_its_hints(hinted: Painter) -> None:
    table, runs = Table(hinted, None, 1_000_000), []
    handle = hinted.colorizer.head.register_forward_hook(lambda *_: runs.append(1))
    identity, _ = table.lay(file_of(photograph()))
    hint = (0.5, 0.5, 0.02, "#ff0000")
    for look, count in [
        (Look(0.4, 1), 1),
        (Look(0.9, 1), 1),
        (Look(0.9, 0.3), 1),
        (Look(0.9, 0.3, (hint,)), 2),
        (Look(0.1, 1, (hint,)), 2),
        (Look(0.1, 1), 2),
    ]:
        for full in (False, True):
            table.coloured(identity, look, full)
            assert len(runs) == count, look
    handle.remove()


def test_a_hint_is_fed_where_it_was_clicked(hinted: Painter) -> None:
    """Against the network called by hand."""
    picture = photograph(64, 32)
    seen = hinted.see(picture, [Hint(x=40, y=8, radius=3, a=30, b=-20)])
    ab, mask = torch.zeros(1, 2, 32, 64), torch.zeros(1, 1, 32, 64)
    ab[0, 0, 5:12, 37:44], ab[0, 1, 5:12, 37:44], mask[0, 0, 5:12, 37:44] = 30, -20, 1
    lightness = rgb_to_lab(torch.from_numpy(np.array(picture)).permute(2, 0, 1))[None, :1]
    with torch.inference_mode():
        features = hinted.colorizer.backbone.forward(lightness, ab, mask)  # type: ignore[call-arg]
        torch.testing.assert_close(seen.output, hinted.colorizer.output(features, (32, 64)))
    assert not torch.equal(seen.output, hinted.see(picture).output)


@pytest.mark.parametrize(
    ("hint", "rows", "columns"),
    [
        (Hint(0, 0, 0, 1, 2), (0, 1), (0, 1)),
        (Hint(99.9, 49.9, 0, 1, 2), (9, 10), (19, 20)),
        (Hint(50, 25, 5, 1, 2), (4, 7), (9, 12)),
        (Hint(99, 1, 11, 1, 2), (0, 3), (17, 20)),
    ],
)
def test_hints_as_the_network_takes_them(hint: Hint, rows: tuple[int, int], columns: tuple[int, int]) -> None:
    """Of a photograph of 100 x 50, seen at 20 x 10."""
    ab, mask = hint_maps([hint], (100, 50), (10, 20))
    expected = torch.zeros(10, 20)
    expected[slice(*rows), slice(*columns)] = 1
    assert torch.equal(mask[0, 0], expected)
    assert torch.equal(ab[0], torch.stack((expected, 2 * expected)))


def test_hints_that_cannot_be(painter: Painter, hinted: Painter) -> None:
    with pytest.raises(UserError, match="takes no hints"):
        painter.see(photograph(), [Hint(1, 1, 1, 0, 0)])
    assert not painter.takes_hints and hinted.takes_hints
    assert painter.has_temperature and not hinted.has_temperature
    for x, y in ((-1, 5), (5, -0.1), (120, 5), (5, 90)):
        with pytest.raises(UserError, match="outside the picture"):
            hinted.see(photograph(120, 90), [Hint(x, y, 1, 0, 0)])


def test_a_colour_of_the_page_in_lab() -> None:
    assert ab_of("#808080") == pytest.approx((0, 0), abs=0.01)
    assert ab_of("#ff0000") == pytest.approx((80.09, 67.2), abs=0.05)  # the sRGB primary


def test_a_reference_is_asked_for_the_colours(painter: Painter) -> None:
    """The method is another part's; here, one that gives the reference's mean colour."""

    def method(reference: Image.Image):  # type: ignore[no-untyped-def]
        mean = rgb_to_lab(torch.from_numpy(np.array(reference)).permute(2, 0, 1))[1:].mean((1, 2))
        return lambda lightness: mean.reshape(1, 2, 1, 1).expand(1, 2, *lightness.shape[2:])

    picture, reference = photograph(), Image.new("RGB", (10, 10), "#7a5aa0")
    table = Table(painter, method, 1_000_000)
    mine, other = table.lay(file_of(picture))[0], table.lay(file_of(reference))[0]
    found = table.coloured(mine, Look(0.4, 1, (), other), full=False)
    assert np.array_equal(
        np.asarray(found), np.asarray(painted(picture, reference_colours(method, picture, reference)))
    )
    with pytest.raises(UserError, match="put away"):
        table.coloured(mine, Look(0.4, 1, (), "unknown"), full=False)
    with pytest.raises(UserError, match="no method"):
        without = Table(painter, None, 1_000_000)
        without.coloured(without.lay(file_of(picture))[0], Look(0.4, 1, (), "any"), full=False)


def test_large_photographs_are_shown_small_and_given_whole(painter: Painter) -> None:
    table = Table(painter, None, 10_000_000)
    identity, laid = table.lay(file_of(photograph(2000, 1000), "JPEG"))
    assert laid.shown.size == (SHOWN, SHOWN // 2)
    assert table.coloured(identity, Look(0.4, 1), full=False).size == laid.shown.size
    whole = table.coloured(identity, Look(0.4, 1), full=True)
    assert np.array_equal(np.asarray(whole), np.asarray(colorize_picture(painter.colorizer, laid.full, 48, 0.4)))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded(whole, "png")))), np.asarray(whole))
    assert Image.open(io.BytesIO(encoded(whole, "jpeg"))).format == "JPEG"


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"<svg onload='x'/>"])
def test_what_is_no_picture_is_a_line(painter: Painter, data: bytes) -> None:
    with pytest.raises(UserError, match="This file: ") as said:
        Table(painter, None, 1_000_000).lay(data)
    assert "\n" not in str(said.value)


def test_too_many_pixels_are_refused_by_the_head_of_the_file(painter: Painter) -> None:
    with pytest.raises(UserError, match="300 x 200 pixels"):
        Table(painter, None, 59_999).lay(file_of(Image.new("L", (300, 200))))
    bomb = file_of(Image.new("1", (300, 200)))
    width = bomb.index(b"IHDR") + 4
    huge = bomb[:width] + (200_000).to_bytes(4, "big") * 2 + bomb[width + 8 :]
    head = huge[width - 4 : width + 13]
    huge = huge[: width + 13] + zlib.crc32(head).to_bytes(4, "big") + huge[width + 17 :]
    with pytest.raises(UserError, match="too large"):
        Table(painter, None, 1_000_000).lay(huge)


def test_photographs_not_used_for_longest_are_put_away(painter: Painter) -> None:
    table = Table(painter, None, 10_000)
    first, second = (table.lay(file_of(photograph(90, 90)))[0] for _ in range(2))
    table.get(first)
    third = table.lay(file_of(photograph(90, 90)))[0]  # a third is more than twice what one may have
    with pytest.raises(UserError, match="put away"):
        table.get(second)
    assert table.get(first) and table.get(third)
    many = [table.lay(file_of(photograph(8, 8)))[0] for _ in range(9)]
    assert table.get(many[-1])
    with pytest.raises(UserError):
        table.get(many[0])


def test_of_what_waits_in_a_lane_only_the_latest_is_done() -> None:
    workshop, begun, go_on, done = Workshop(), threading.Event(), threading.Event(), []

    def busy() -> str:
        begun.set()
        go_on.wait()
        return "first"

    first = workshop.ask("slider", busy)
    begun.wait()
    waiting = [workshop.ask("slider", lambda index=index: done.append(index)) for index in range(5)]  # type: ignore[misc]
    other = workshop.ask("download", lambda: done.append("download"))
    go_on.set()
    assert first.result() == "first", "what was begun is finished"
    other.result()
    assert done == [4, "download"]
    assert all(isinstance(one.exception(), Superseded) for one in waiting[:-1])
    failed = workshop.ask("slider", lambda: 1 / 0)
    assert isinstance(failed.exception(), ZeroDivisionError)
    assert workshop.ask("slider", lambda: "still there").result() == "still there"
    workshop.close()


def test_a_crowd_is_refused_and_a_closed_workshop_leaves_nobody_waiting() -> None:
    workshop, begun, go_on = Workshop(), threading.Event(), threading.Event()
    workshop.ask("busy", lambda: (begun.set(), go_on.wait()))
    begun.wait()
    waiting = []
    with pytest.raises(Crowded):
        for lane in range(1000):
            waiting.append(workshop.ask(lane, lambda: None))
    closing = threading.Thread(target=workshop.close)
    closing.start()
    assert isinstance(waiting[-1].exception(), Superseded)
    go_on.set()
    closing.join()
