"""The last stages of a backbone on regions: AlexNet's fc6 and fc7 as in Fast R-CNN, ResNet's layer4 as in C4."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pretext.engine.settings import TrainingSettings
from pretext.engine.trainer import optimizer_and_schedule
from pretext.errors import UserError
from transfer.adapt import AdaptSettings, adapt
from transfer.networks import Network, open_network
from transfer.tasks.alignment import grids
from transfer.tasks.detection import DetectHeadSettings, Detector, necked
from transfer.tasks.last_stage import take_last_stages

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
    used = [*(stage.name for stage in necked(network.module, head)), network.stages[-1].name]  # type: ignore[arg-type]
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
    optimizer, _ = optimizer_and_schedule(network, TrainingSettings())
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
        ({"box_after": "fc7"}, "from the neck, conv5, on, and before fc7"),
        ({"box_after": "conv4"}, "from the neck, conv5, on, and before fc7"),
        ({"neck": "conv4"}, "pool5, of 256 channels: what comes after it cannot look at the 384 of conv4"),
        ({"pooled": 5}, "head.pooled is 5"),
    ],
)
def test_mistakes(changed: dict[str, Any], said: str, alexnet: Network) -> None:
    asked = {"neck": "conv5", "box_after": "pool5", "pooled": 6, **changed}
    with pytest.raises(UserError, match=said) as raised:
        Detector(adapt(alexnet, AdaptSettings()), 20, DetectHeadSettings(**FAST, **asked))
    assert "\n" not in str(raised.value)


def test_what_is_no_chain(resnet: Network) -> None:
    with pytest.raises(UserError, match="box_after is pool5: that is of box stage"):
        DetectHeadSettings(box_after="pool5")
    first = resnet.stages[0]
    network = Jumps((first._replace(name="first", stride=1), first._replace(name="last", stride=1)))
    with pytest.raises(UserError, match="no part of the backbone makes last from first"):
        take_last_stages(network, "first")
