import pytest
import torch

from pretext.backbones.vgg import Vgg

HEAD = 256 * 313 + 313
BIN_CENTERS = 2 * 313


def parameters(net: Vgg) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def test_parameters_are_the_published_number() -> None:
    with torch.device("meta"):
        assert parameters(Vgg()) + HEAD + BIN_CENTERS == 32_236_011
        scale_and_shift = 2 * (64 + 128 + 256 + 4 * 512)
        assert parameters(Vgg(affine=False)) == parameters(Vgg()) - scale_and_shift


@pytest.mark.parametrize("pixels", [176, 224, 256])
def test_published_sizes(pixels: int) -> None:
    with torch.device("meta"):
        features = Vgg().eval()(torch.empty(1, 1, pixels, pixels))
    strides = (2, 4, 8, 8, 8, 8, 8, 4)
    assert [tuple(maps.shape[-2:]) for maps in features.values()] == [(pixels // s, pixels // s) for s in strides]


def test_names_are_those_of_the_release() -> None:
    convolutions = {1: (0, 2), 2: (0, 2), **dict.fromkeys(range(3, 9), (0, 2, 4))}
    norms = {1: 4, 2: 4, **dict.fromkeys(range(3, 8), 6)}
    expected = {f"model{b}.{i}.{p}" for b, layers in convolutions.items() for i in layers for p in ("weight", "bias")}
    statistics = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected |= {f"model{b}.{i}.{s}" for b, i in norms.items() for s in statistics}
    with torch.device("meta"):
        assert set(Vgg().state_dict()) == expected


def test_stages_are_taken_after_batch_norm() -> None:
    torch.manual_seed(0)
    net = Vgg().train()
    with torch.no_grad():
        features = net(torch.rand(2, 1, 64, 64) * 100)
    for stage in net.stages[:-1]:
        mean = features[stage.name].mean((0, 2, 3))
        assert torch.allclose(mean, torch.zeros_like(mean), atol=1e-3), stage.name
    assert (features["conv8"] >= 0).all()  # no batch norm there, ReLU last


def test_lightness_is_centered_and_scaled() -> None:
    seen = []
    net = Vgg().eval()
    net.model1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        net(torch.tensor([0.0, 50.0, 100.0]).reshape(3, 1, 1, 1).expand(3, 1, 8, 8))
    assert [batch.unique().item() for batch in seen[0]] == [-0.5, 0.0, 0.5]
