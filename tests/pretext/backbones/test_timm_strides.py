"""The true stride of every stage, over one small model of every family that timm has.

The rule: of every module of timm, the model of fewest parameters among the two whose names speak most of being small,
if it has at most 12 million. One that cannot be a backbone must say so in one line. About a minute on one core.
"""

import re
import sys
import time
from collections.abc import Iterator

import pytest
import timm
import torch

from pretext.backbones.from_timm import TimmBackbone
from pretext.errors import UserError
from pretext.methods.colorization import Colorizer
from pretext.methods.objectives import OBJECTIVES, ObjectiveSettings

SMALL = ("test", "atto", "femto", "pico", "nano", "xxs", "xxt", "xs", "xt", "tiny", "mini", "m0", "t0", "b0", "s0")
CANDIDATES, MOST = 2, 12_000_000


def smallest(module: str) -> str:
    """The model by the rule above; "" if the module has none."""
    words = [(set(re.split(r"[_.]", name)), name) for name in timm.list_models(module=module)]
    ranked = sorted(
        (min((at for at, word in enumerate(SMALL) if word in parts), default=len(SMALL)), len(name), name)
        for parts, name in words
    )
    sizes = {}
    for _, _, name in ranked[:CANDIDATES]:
        with torch.device("meta"):
            net = timm.create_model(name, num_classes=0)
        sizes[name] = sum(parameter.numel() for parameter in net.parameters())
    name = min(sizes, key=lambda name: sizes[name], default="")
    return name if sizes.get(name, MOST) < MOST else ""


@pytest.fixture(scope="module", autouse=True)
def seconds() -> Iterator[None]:
    began = time.process_time()
    yield
    sys.stderr.write(f"\nall families of timm: {time.process_time() - began:.0f} s\n")


@pytest.mark.slow
@pytest.mark.parametrize("module", timm.list_modules())
def test_a_stride_is_where_its_places_look(module: str) -> None:
    """Sides of maps, and which pixels the corner places of the last depend on, as gradients tell."""
    name = smallest(module)
    if not name:
        return
    torch.manual_seed(0)
    try:
        net = TimmBackbone(f"timm/{name}".removeprefix("timm/")).eval()
    except UserError as error:
        assert "\n" not in str(error) and name in str(error) and "cannot be a backbone" in str(error)
        return
    side = net.own_size
    if net.only_size is None and net.fit_size(256) == 256 and side > 256:
        side = 256
    lightness = (torch.rand(1, 1, side, side) * 100).requires_grad_()
    features = net(lightness)
    assert net.fit_size(net.own_size) == net.own_size
    for stage in net.stages:
        assert features[stage.name].shape[1] == stage.channels, (name, stage)
        for places in features[stage.name].shape[2:]:
            # Places lie a stride apart, and cover the image but for what convolutions without padding leave out.
            assert (places - 1) * stage.stride < side <= (places + 1.5) * stage.stride, (name, stage, places)
    first, last = (reach_of_corners(features[stage.name], lightness) for stage in (net.stages[0], net.stages[-1]))
    assert bool((first.argmax(1) == torch.arange(4)).all()), (name, first)
    # At random weights the last stage of some attends to all places alike: the own quarter then counts about as much.
    assert bool((last.diagonal() >= 0.9 * last.amax(1)).all()), (name, last)


def reach_of_corners(maps: torch.Tensor, lightness: torch.Tensor) -> torch.Tensor:
    """(4, 4): how much each corner place of a map depends on each quarter of the image, over the corners' mean."""
    rows = []
    for row in (0, -1):
        for column in (0, -1):
            corner = maps[0, :, row, column]
            weights = torch.randn(len(corner), generator=torch.Generator().manual_seed(0))
            (slope,) = torch.autograd.grad((corner * weights).sum(), lightness, retain_graph=True)
            half = slope.shape[-1] // 2
            up, down = slope[0, 0, :half].abs(), slope[0, 0, -half:].abs()
            rows.append([float(part.mean()) for half_ in (up, down) for part in (half_[:, :half], half_[:, -half:])])
    reach = torch.tensor(rows)
    return reach / reach.mean(0)


@pytest.mark.parametrize(("name", "strides"), [("levit_128s", [16, 32, 64]), ("efficientvit_m0", [16, 32, 64])])
def test_colors_cover_the_image_at_a_stride_above_32(name: str, strides: list[int]) -> None:
    net = TimmBackbone(name).eval()
    assert [stage.stride for stage in net.stages] == strides
    settings = ObjectiveSettings("regression", stride=8)
    colorizer = Colorizer(net, OBJECTIVES["regression"](settings, torch.ones(313)), 8).eval()
    with torch.no_grad():
        colorizer.head.weight.zero_()  # type: ignore[union-attr, operator]
        features = net(torch.rand(1, 1, 224, 224) * 100)
        last = features[net.stages[-1].name]
        ramp = torch.arange(last.shape[-1], dtype=torch.float32)
        features[net.stages[-1].name] = ramp.view(1, 1, -1, 1).add(ramp).expand_as(last)
        colorizer.head.weight[:, 0] = 1.0  # type: ignore[index, union-attr, operator]
        colors = colorizer.output(features, (224, 224))[0, 0]
    # Place i of the map lies on pixel 64 i: 24.5 places of a color grid of stride 8 to the last but one.
    assert colors.shape == (28, 28)
    for place in range(4):
        assert colors[8 * place, 8 * place] - colors[0, 0] == pytest.approx(2 * place, abs=1e-4)


@pytest.mark.parametrize("name", ["levit_128s", "efficientvit_m0", "test_vit", "swin_tiny_patch4_window7_224"])
def test_a_models_own_size_is_one_that_it_takes(name: str) -> None:
    with torch.device("meta"):
        net = TimmBackbone(name)
    assert net.fit_size(net.own_size) == net.own_size
