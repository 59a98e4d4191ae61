"""Anchors and pooling against torchvision's; the last stages of a backbone on regions, as in Fast R-CNN and C4."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from pretext.engine.trainer import TrainingSettings, build_optimizer
from pretext.errors import UserError
from transfer.adapt import AdaptSettings, adapt
from transfer.networks import Network, open_network
from transfer.tasks.alignment import FeatureAxis, grids
from transfer.tasks.detection_head import DetectHeadSettings, Detector, neck_stages
from transfer.tasks.regions import Anchors, Pool, read_boxes, take_last_stages


def boxes(count: int, side: float) -> torch.Tensor:
    corners = torch.rand(count, 2, 2) * side
    return torch.cat((corners.amin(1), corners.amax(1) + 0.01), dim=1)


def test_anchors_lie_around_the_places() -> None:
    images = ImageList(torch.zeros(2, 3, 64, 96), [(64, 96), (50, 80)])
    maps = [torch.zeros(2, 5, 8, 12), torch.zeros(2, 5, 4, 6)]
    found = Anchors([FeatureAxis(8, 0.0), FeatureAxis(16, 7.5)], [[16.0, 64.0], [128.0, 256.0]])(images, maps)
    expected = AnchorGenerator(((16, 64), (128, 256)), ((0.5, 1.0, 2.0),) * 2)(images, maps)
    assert len(found) == 2 and torch.equal(found[0], found[1])
    shift = torch.cat((torch.full((8 * 12 * 6, 1), 0.5), torch.full((4 * 6 * 6, 1), 8.0)))
    torch.testing.assert_close(found[0], expected[0] + shift, atol=0.5, rtol=0)  # torchvision's are rounded
    sides = found[0][:, 2:] - found[0][:, :2]
    torch.testing.assert_close(sides.prod(1)[:6].sqrt(), torch.tensor([16.0, 64.0] * 3))
    torch.testing.assert_close((sides[:, 1] / sides[:, 0])[:6], torch.tensor([0.5, 0.5, 1.0, 1.0, 2.0, 2.0]))


def test_anchors_of_sizes_that_leave_a_remainder() -> None:
    (found,) = Anchors([FeatureAxis(16, 0.0)], [[32.0]])(
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
    for grid in (FeatureAxis(8, 0.0), FeatureAxis(8, 3.5), FeatureAxis(8, 5.0)):
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
    pool = Pool([FeatureAxis(stride, 0.0) for stride in (4, 8, 16, 32)], 32 * scale, 2)
    assert torch.equal(pool.level(found * scale), LevelMapper(2, 5)([found]))
    maps = {str(level): torch.full((2, 1, 8, 8), float(level)) for level in range(4)}
    split = [found[:150] * scale, found[150:] * scale]
    read = pool(maps, split, [(900, 900)] * 2)
    assert torch.equal(read[:, 0, 0, 0].long(), pool.level(found * scale)), "and every box in its own place"
    assert pool(maps, [found[:0], found[:0]], [(900, 900)] * 2).shape == (0, 1, 2, 2)


def test_the_largest_place_of_each_cell_as_published() -> None:
    """RoI pooling by its rule, place by place."""
    torch.manual_seed(0)
    grid, size, side = FeatureAxis(16, 17.0), 6, 14
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


FAST: dict[str, Any] = {"form": "fast", "box": "stage", "rois": 8}
ALEXNET = DetectHeadSettings(**FAST, neck="conv5", box_after="pool5", pooled=6, pooling="max")
C4 = DetectHeadSettings(**FAST, neck="layer3", pooled=7)
RGB = torch.randint(0, 256, (1, 3, 227, 243), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGET = {
    "boxes": torch.tensor([[20.0, 30.0, 190.0, 200.0]]),
    "labels": torch.tensor([3]),
    "size": torch.tensor([227, 243]),
    "proposals": torch.tensor([[18.0, 33.0, 195.0, 190.0], [0.0, 0.0, 30.0, 30.0], [100.0, 5.0, 227.0, 80.0]]),
}


@pytest.fixture(scope="module")
def alexnet() -> Network:
    return open_network("random:alexnet", 0, {"geometry": "test", "dropout": 0.5})


def test_it_is_looked_at_in_a_size_that_it_takes(alexnet: Network) -> None:
    assert (alexnet.view_size, alexnet.fit_size(100), alexnet.fit_size(300)) == (227, 227, 300)


@pytest.fixture(scope="module")
def resnet() -> Network:
    return open_network("random:resnet18")


def detector(network: Network, head: DetectHeadSettings, **settings: Any) -> Detector:
    """As ``finetuning`` makes it."""
    used = [*(stage.name for stage in neck_stages(network.module, head)), network.stages[-1].name]  # type: ignore[arg-type]
    torch.manual_seed(0)
    return Detector(adapt(network, AdaptSettings(**settings), used=used), 20, head)


def learned(network: Detector) -> set[str]:
    """What of the backbone a step changes, as AlexNet and ResNets call it."""
    names = {weight: name for name, weight in network.named_parameters() if weight.requires_grad}
    loss = network.loss(RGB, [TARGET])
    loss.backward()
    unused = [name for weight, name in names.items() if weight.grad is None]
    assert not unused, "several processes need a gradient of all that is trained"
    return {name for weight, name in names.items() if weight.grad is not None and weight.grad.any()}


def test_on_the_whole_map_it_is_the_backbone(alexnet: Network) -> None:
    network = adapt(alexnet, AdaptSettings(batch_norm="absorbed")).eval()
    with torch.no_grad():
        maps = {name: value.clone() for name, value in network(RGB[..., :227]).items()}
        box = take_last_stages(network, "pool5").eval()
        found = box(maps["pool5"])
        after = network(RGB[..., :227])
    assert maps["pool5"].shape == (1, 256, 6, 6) and [type(one) for one in box][1::2] == [nn.Dropout] * 2
    assert torch.equal(found, maps["fc7"][:, :, 0, 0]) and found.any()
    assert torch.equal(after["conv5"], maps["conv5"]), "the stages before stay"
    assert not [name for name, _ in network.named_parameters() if "fc" in name]


@pytest.mark.slow
def test_the_gradient_reaches_all_layers(alexnet: Network) -> None:
    network = detector(alexnet, ALEXNET)
    assert {own.split(".")[0] for own, _ in network.named_parameters()} == {"features", "head"}
    changed = learned(network)
    for name in ("head.boxes.box_head.0.0.weight", "head.boxes.box_head.2.0.weight"):  # fc6, fc7
        assert name in changed
    for name in ("conv1", "conv5"):
        assert f"features.features.backbone.{name}.0.weight" in changed
    assert network.get_submodule("head.boxes.box_head.1").training, "fc6's dropout"
    other = detector(alexnet, ALEXNET)
    other.load_state_dict(network.state_dict())  # as resuming does


@pytest.mark.slow
@pytest.mark.parametrize(
    ("frozen", "trained"),
    [
        ("conv4", ["conv5", "fc6", "fc7"]),
        ("pool5", ["fc6", "fc7"]),
        ("fc6", ["fc7"]),
        ("fc7", []),
    ],
)
def test_frozen_stages_of_alexnet(frozen: str, trained: list[str], alexnet: Network) -> None:
    network = detector(alexnet, ALEXNET, freeze_to=frozen)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    places = {
        "features.features.backbone.conv5": "conv5",
        "head.boxes.box_head.0": "fc6",
        "head.boxes.box_head.2": "fc7",
    }
    changed = {places.get(name.rsplit(".", 2)[0]) for name in learned(network) if "box_predictor" not in name}
    assert changed == set(trained)
    for mode in (network.train, network.eval, network.train):
        mode()
    fc6, drop6, fc7, drop7 = network.get_submodule("head.boxes.box_head").children()
    still = {"fc6": fc6, "fc7": fc7}
    assert {name for name, module in still.items() if module[1].training} == set(trained) & set(still)  # type: ignore[index]
    assert [drop6.training, drop7.training] == ["fc6" in trained, "fc7" in trained]
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    norms = {name for name in moved if "running" in name}
    assert {places.get(name.rsplit(".", 2)[0]) for name in norms} == set(trained), "statistics of what is frozen stay"


@pytest.mark.parametrize(
    ("settings", "training"),
    [
        ({}, True),
        ({"batch_norm": "frozen"}, False),
        ({"freeze_to": "layer3"}, True),
        ({"freeze_to": "layer4"}, False),
        ({"batch_norm": "absorbed", "freeze_to": "layer2"}, None),
    ],
)
def test_the_last_stage_of_an_adapted_resnet(settings: dict[str, Any], training: bool | None, resnet: Network) -> None:
    network = detector(resnet, C4, **settings)
    changed = learned(network)
    network.eval().train()
    box = network.get_submodule("head.boxes.box_head")
    norms = [module for module in box.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {norm.training for norm in norms} == (set() if training is None else {training})
    assert any("box_head" in name for name in changed) == (settings.get("freeze_to") != "layer4")
    assert any(name.startswith("features.") for name in changed) == ("freeze_to" not in settings or training is None)


def test_they_keep_the_rate_of_the_backbone(resnet: Network) -> None:
    network = detector(resnet, C4)
    network.rates = {**network.rates, "head.": 10.0}  # as finetuning does
    optimizer = build_optimizer(network, TrainingSettings())
    rates = {id(weight): group["lr_scale"] for group in optimizer.param_groups for weight in group["params"]}
    for name, weight in network.named_parameters():
        assert rates[id(weight)] == (10.0 if "box_predictor" in name else 1.0), name


def test_alexnet_tells_where_its_places_lie(alexnet: Network) -> None:
    found = grids(alexnet.module)  # type: ignore[arg-type]
    # conv1 sees 11 pixels from the first on; each pooling begins one place further.
    assert [found[f"conv{number}"].first for number in range(1, 6)] == [5, 9, 17, 17, 17]


class Jumps(nn.Module):
    """A layer used twice on the way to the last stage."""

    def __init__(self, stages: Any) -> None:
        super().__init__()
        self.stages, self.layer = stages, nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, rgb: Tensor) -> dict[str, Tensor]:
        first = self.layer(rgb.float())
        return {"first": first, "last": self.layer(self.layer(first))}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"neck": "conv5+pool5"}, "head.neck is conv5"),
        ({"neck": "fc7", "box_after": ""}, "takes one stage that is not the last: conv1, .*, fc6$"),
        ({"box_after": "conv9"}, "no stage conv9"),
        ({"box_after": "fc7"}, "the neck, conv5, or a later stage before fc7"),
        ({"box_after": "conv4"}, "the neck, conv5, or a later stage before fc7"),
        ({"neck": "conv4"}, "pool5, of 256 channels: the layers after it cannot process the 384 of conv4"),
        ({"pooled": 5}, "head.pooled is 5"),
    ],
)
def test_mistakes(changed: dict[str, Any], said: str, alexnet: Network) -> None:
    asked = {"neck": "conv5", "box_after": "pool5", "pooled": 6, **changed}
    with pytest.raises(UserError, match=said) as raised:
        Detector(adapt(alexnet, AdaptSettings()), 20, DetectHeadSettings(**FAST, **asked))
    assert "\n" not in str(raised.value)


def test_what_is_no_chain(resnet: Network) -> None:
    with pytest.raises(UserError, match=r"box_after is pool5: it needs head\.box stage"):
        DetectHeadSettings(box_after="pool5")
    first = resnet.stages[0]
    network = Jumps((first._replace(name="first", stride=1), first._replace(name="last", stride=1)))
    with pytest.raises(UserError, match="no chain of the backbone's modules computes last from first"):
        take_last_stages(network, "first")
