"""Where the places of maps lie, and bilinear reading between them."""

import pytest
import torch
from overfit import build_tiny
from torch import Tensor, nn
from torch.nn import functional as F

from pretext.backbones import Stage
from pretext.errors import UserError
from transfer.tasks.alignment import FeatureAxis, grids, read_between, stage_of


class Mixed(nn.Module):
    """Patches, odd convolutions, and a deconvolution, as the published colorizer's last stage is one."""

    stages = (Stage("patches", 2, 4), Stage("odd", 2, 8), Stage("finer", 2, 4))

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.odd = nn.Conv2d(3, 2, 4, 4), nn.Conv2d(2, 2, 3, 2, 1)
        self.finer = nn.ConvTranspose2d(2, 2, 4, 2, 1)

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        patches = self.patches(rgb)
        odd = self.odd(patches)
        return {"patches": patches, "odd": odd, "finer": self.finer(odd)}


@pytest.mark.parametrize("network", [build_tiny(), Mixed()])
def test_a_place_lies_in_the_middle_of_what_it_sees(network: nn.Module) -> None:
    for module in network.eval().modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
    rgb = torch.full((1, 3, 256, 256), 0.9, requires_grad=True)
    maps = network(rgb)
    for stage, grid in grids(network).items():
        place = round((128 - grid.first) / grid.stride)
        two = maps[stage][0, :, :, place : place + 2].sum()  # deconvolutions treat even and odd places differently
        (seen,) = torch.autograd.grad(two, rgb, retain_graph=True)
        across = seen[0].sum((0, 1)).abs()
        middle = float(across @ torch.arange(256.0) / across.sum())
        assert middle == pytest.approx(grid.first + (place + 0.5) * grid.stride, abs=0.01), stage


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "firsts"),
    [
        ("resnet18", [0, 0, 0, 0, 0]),
        ("vit_tiny_patch16_224", [7.5, 7.5, 7.5]),  # takes no size but multiples of 16
        ("convnext_atto", [1.5, 3.5, 7.5, 15.5]),
    ],
)
def test_grids_of_published_nets(name: str, firsts: list[float]) -> None:
    network = build_tiny(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = grids(network)
    assert [grid.first for grid in found.values()] == firsts
    assert [grid.stride for grid in found.values()] == [stage.stride for stage in network.stages]
    assert all(module.training for module in network.modules()), "left as it was"
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


class OneSize(nn.Module):
    """Takes 64 x 64 pixels only."""

    stages = (Stage("only", 3, 16),)

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        if rgb.shape[-1] != 64:
            raise UserError("no")
        return {"only": F.avg_pool2d(rgb, 16)}


def test_a_network_of_one_size_has_patches() -> None:
    assert grids(OneSize()) == {"only": FeatureAxis(16, 7.5)}


def test_stages_by_name() -> None:
    network = build_tiny()
    assert stage_of(network, "").name == "conv5" and stage_of(network, "conv2").stride == 4
    with pytest.raises(UserError, match="no stage conv9: it has conv1, conv2"):
        stage_of(network, "conv9")


def test_reading_is_the_publications_deconvolution() -> None:
    maps, stride = torch.randn(2, 3, 5, 4), 8
    ramp = 1 - (torch.arange(2 * stride - 1.0) - (stride - 1)).abs() / stride
    kernel = (ramp[:, None] * ramp).expand(3, 1, -1, -1)
    expected = F.conv_transpose2d(maps, kernel, stride=stride, padding=stride - 1, groups=3)
    rows, columns = torch.arange(float(expected.shape[2])), torch.arange(float(expected.shape[3]))
    torch.testing.assert_close(read_between(maps, FeatureAxis(stride, 0.0), rows, columns), expected)


@pytest.mark.parametrize("size", [(40, 32), (80, 64), (17, 31)])
def test_reading_of_patches_is_interpolation(size: tuple[int, int]) -> None:
    maps = torch.randn(2, 3, 5, 4)  # of an image of 40 x 32 pixels in patches of 8, asked about in any size
    expected = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    rows, columns = ((torch.arange(n) + 0.5) * (side / n) - 0.5 for n, side in zip(size, (40, 32), strict=True))
    torch.testing.assert_close(read_between(maps, FeatureAxis(8, 3.5), rows, columns), expected)
