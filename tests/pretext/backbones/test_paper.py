"""The two networks of the paper, whole: backbone and head, as the recipes build them."""

import pytest
import torch

from pretext.backbones import AlexNet, Backbone, Vgg
from pretext.gamut import Gamut
from pretext.methods.colorization import Colorizer
from pretext.methods.objectives import Classification

BIN_CENTERS = 2 * 313  # the release keeps them as a convolution's weights, we in the gamut


def parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("affine", "published"), [(True, 32_236_011), (False, 32_231_019)])
def test_vgg_has_the_published_number_of_parameters(affine: bool, published: int) -> None:
    net = Colorizer(Vgg(affine=affine), Classification(Gamut(), None), target_stride=4)
    assert parameters(net) == published - BIN_CENTERS
    assert parameters(net.head) == 256 * 313 + 313


def test_alexnet_has_the_number_of_its_layer_table() -> None:
    with torch.device("meta"):
        backbone = AlexNet()
    net = Colorizer(backbone, Classification(Gamut(), None), target_stride=8)
    assert parameters(backbone) == 56_844_992
    assert parameters(net.head) == 4096 * 313 + 313
    assert parameters(net) == 58_127_353


@pytest.mark.parametrize(
    ("name", "stride", "pixels", "own", "asked"),
    [("vgg", 4, 176, 44, 44), ("vgg", 4, 256, 64, 64), ("alexnet", 8, 180, 12, 23)],
)
def test_the_head_meets_the_target(name: str, stride: int, pixels: int, own: int, asked: int) -> None:
    objective = Classification(Gamut(), None)
    with torch.device("meta"):
        backbone: Backbone = {"vgg": Vgg, "alexnet": AlexNet}[name]()
        net = Colorizer(backbone, objective, stride).eval()
        lightness = torch.empty(2, 1, pixels, pixels)
        last = net.backbone(lightness)[net.backbone.stages[-1].name]
        logits = net(lightness)
    assert last.shape == (2, {"vgg": 256, "alexnet": 4096}[name], own, own)
    assert logits.shape == (2, 313, asked, asked)
    assert net.target(torch.rand(2, 3, pixels, pixels)).shape == (2, 2, asked, asked)


def test_sizes_of_the_blocks_at_176_pixels() -> None:
    with torch.device("meta"):
        features = Vgg().eval()(torch.empty(1, 1, 176, 176))
    assert [maps.shape[-1] for maps in features.values()] == [88, 44, 22, 22, 22, 22, 22, 44]


def test_alexnet_groups_strides_and_dilations() -> None:
    with torch.device("meta"):
        pretrain, test = AlexNet("pretrain"), AlexNet("test")
    shapes = {  # kernel, stride, padding, dilation, groups
        "conv1": (11, 4, 5, 1, 1),
        "conv2": (5, 1, 2, 1, 2),
        "conv3": (3, 1, 1, 1, 1),
        "conv4": (3, 1, 1, 1, 2),
        "conv5": (3, 1, 1, 1, 2),
        "fc6": (6, 1, 5, 2, 1),
        "fc7": (1, 1, 0, 1, 1),
    }
    for net, changed in ((pretrain, {}), (test, {"conv1": (11, 4, 0, 1, 1), "fc6": (6, 1, 0, 1, 1)})):
        for name, shape in {**shapes, **changed}.items():
            conv = getattr(net, name)[0]
            found = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, (conv.groups, conv.groups))
            assert found == tuple((value, value) for value in shape), name
    pools = dict.fromkeys(("pool1", "pool2"), (3, 2, 1)) | {"pool5": (3, 1, 1)}
    for name, shape in pools.items():
        pool = getattr(pretrain, name)
        assert (pool.kernel_size, pool.stride, pool.padding) == shape, name
        pool = getattr(test, name)
        assert (pool.kernel_size, pool.stride, pool.padding) == (3, 2, 0), name
