"""Anchors and pooling of regions, against torchvision's where those go by the same places."""

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from transfer.tasks.alignment import Grid
from transfer.tasks.regions import Anchors, Pool, read_boxes


def boxes(count: int, side: float) -> torch.Tensor:
    corners = torch.rand(count, 2, 2) * side
    return torch.cat((corners.amin(1), corners.amax(1) + 0.01), dim=1)


def test_anchors_lie_around_the_places() -> None:
    images = ImageList(torch.zeros(2, 3, 64, 96), [(64, 96), (50, 80)])
    maps = [torch.zeros(2, 5, 8, 12), torch.zeros(2, 5, 4, 6)]
    found = Anchors([Grid(8, 0.0), Grid(16, 7.5)], [[16.0, 64.0], [128.0, 256.0]])(images, maps)
    expected = AnchorGenerator(((16, 64), (128, 256)), ((0.5, 1.0, 2.0),) * 2)(images, maps)
    assert len(found) == 2 and torch.equal(found[0], found[1])
    shift = torch.cat((torch.full((8 * 12 * 6, 1), 0.5), torch.full((4 * 6 * 6, 1), 8.0)))
    torch.testing.assert_close(found[0], expected[0] + shift, atol=0.5, rtol=0)  # torchvision's are rounded
    sides = found[0][:, 2:] - found[0][:, :2]
    torch.testing.assert_close(sides.prod(1)[:6].sqrt(), torch.tensor([16.0, 64.0] * 3))
    torch.testing.assert_close((sides[:, 1] / sides[:, 0])[:6], torch.tensor([0.5, 0.5, 1.0, 1.0, 2.0, 2.0]))


def test_anchors_of_sizes_that_leave_a_remainder() -> None:
    (found,) = Anchors([Grid(16, 0.0)], [[32.0]])(
        ImageList(torch.zeros(1, 3, 200, 40), [(200, 40)]), [torch.zeros(1, 1, 13, 3)]
    )
    assert torch.equal((found[-1, :2] + found[-1, 2:]) / 2, torch.tensor([32.5, 192.5]))  # not 200 // 13 apart


def test_boxes_are_read_as_torchvision_does() -> None:
    torch.manual_seed(0)
    values = torch.randn(3, 5, 9, 13, requires_grad=True)
    images, found = torch.tensor([0, 0, 0, 2, 2]), boxes(5, 9)
    found[0] += torch.tensor([-0.9, -0.5, 5.0, 0.5])  # a little beyond the edges
    ours = read_boxes(values, images, found, 7)
    theirs = roi_align(values, torch.cat((images[:, None].float(), found), 1), 7, 1.0, 2, aligned=True)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(ours)
    (one,), (other,) = (torch.autograd.grad((read * weight).sum(), values) for read in (ours, theirs))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert read_boxes(values, images[:0], found[:0], 7).shape == (0, 5, 7, 7)


def test_a_box_is_read_where_it_lies() -> None:
    for grid in (Grid(8, 0.0), Grid(8, 3.5), Grid(8, 5.0)):
        pixels = grid.first + 8 * torch.arange(12.0)
        ramp = torch.stack(torch.meshgrid(pixels, pixels, indexing="ij"))[None]  # a map that holds its own places
        box = torch.tensor([[21.0, 30.0, 61.0, 50.0]])
        read = Pool([grid], 32.0, 4)({"only": ramp}, [box], [(96, 96)])
        torch.testing.assert_close(read[0, 0, :, 0], 30 - 0.5 + 20 * (torch.arange(4) + 0.5) / 4)
        torch.testing.assert_close(read[0, 1, 0], 21 - 0.5 + 40 * (torch.arange(4) + 0.5) / 4)


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_levels_of_a_pyramid(scale: float) -> None:
    torch.manual_seed(0)
    found = boxes(200, 900)
    pool = Pool([Grid(stride, 0.0) for stride in (4, 8, 16, 32)], 32 * scale, 2)
    assert torch.equal(pool.level(found * scale), LevelMapper(2, 5)([found]))
    maps = {str(level): torch.full((2, 1, 8, 8), float(level)) for level in range(4)}
    split = [found[:150] * scale, found[150:] * scale]
    read = pool(maps, split, [(900, 900)] * 2)
    assert torch.equal(read[:, 0, 0, 0].long(), pool.level(found * scale)), "and every box in its own place"
    assert pool(maps, [found[:0], found[:0]], [(900, 900)] * 2).shape == (0, 1, 2, 2)


def test_the_largest_place_of_each_cell_as_published() -> None:
    """RoI pooling by its rule, place by place."""
    torch.manual_seed(0)
    grid, size, side = Grid(16, 17.0), 6, 14
    values = torch.randn(1, 3, side, side)
    given = torch.cat((boxes(6, 240).round(), torch.tensor([[0.0, 0.0, 240.0, 240.0], [100.0, 100.0, 101.0, 101.0]])))
    read = Pool([grid], 32.0, size, "max")({"only": values}, [given], [(240, 240)])
    for box, found in zip(given.tolist(), read, strict=True):
        first = [round((box[axis] - grid.first) / grid.stride) for axis in (0, 1)]
        last = [round((box[axis] - 1 - grid.first) / grid.stride) for axis in (2, 3)]
        long = [max(1, b - a + 1) for a, b in zip(first, last, strict=True)]
        for i in range(size):
            for j in range(size):
                rows, columns = (
                    range(max(0, start + at * whole // size), min(side, start + -(-(at + 1) * whole // size)))
                    for start, whole, at in ((first[1], long[1], i), (first[0], long[0], j))
                )
                inside = values[0][:, list(rows)][:, :, list(columns)]
                expected = inside.amax((1, 2)) if inside.numel() else torch.zeros(3)
                assert torch.equal(found[:, i, j], expected), (box, i, j)
