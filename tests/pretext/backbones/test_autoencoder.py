import pytest
import torch

from pretext.backbones.autoencoder import Autoencoder
from pretext.errors import UserError

ENCODER = [(1, 64), (64, 128), (128, 256), (256, 512), (512, 512)]
DECODER = [(512, 512), (512, 256), (256, 128), (128, 64)]


def test_parameters_are_those_of_the_table() -> None:
    with torch.device("meta"):
        net = Autoencoder()
    expected = sum(9 * a * b + 2 * b for a, b in ENCODER) + sum(16 * a * b + 2 * b for a, b in DECODER)
    assert sum(p.numel() for p in net.parameters()) == expected == 10_859_840
    assert [(stage.name, stage.channels, stage.stride) for stage in net.stages] == [
        *((f"encoder{i}", width, 2**i) for i, (_, width) in enumerate(ENCODER, 1)),
        *((f"decoder{i}", width, 2 ** (5 - i)) for i, (_, width) in enumerate(DECODER, 1)),
    ]


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 1)])
def test_the_decoder_mirrors_the_encoder(size: tuple[int, int]) -> None:
    features = Autoencoder(width=0.1).eval()(torch.rand(1, 1, *size) * 100)
    for number in range(1, 5):
        assert features[f"decoder{number}"].shape == features[f"encoder{5 - number}"].shape


@torch.no_grad()
def test_nothing_skips_the_middle() -> None:
    torch.manual_seed(0)
    net = Autoencoder(width=0.1).eval()
    net.encoder["encoder5"].register_forward_hook(lambda _module, _inputs, output: torch.ones_like(output))
    one, other = (net(torch.rand(1, 1, 64, 64) * 100) for _ in range(2))
    assert not torch.equal(one["encoder4"], other["encoder4"])
    assert all(torch.equal(one[f"decoder{number}"], other[f"decoder{number}"]) for number in range(1, 5))


@pytest.mark.parametrize("arguments", [{"depth": 1}, {"depth": 8}, {"depth": "deep"}, {"width": -1}])
def test_what_cannot_be_built(arguments: dict[str, int]) -> None:
    with pytest.raises(UserError, match=f"backbone autoencoder: {next(iter(arguments))}"):
        Autoencoder(**arguments)
