"""MAE's masks, target and loss against its paper."""

from typing import Any

import pytest
import torch
from methods import build, images

from pretext.errors import UserError
from pretext.methods.mae import MAE, sine_positions

VIT = {"name": "test_vit", "arguments": {"img_size": 32}}


def make(inputs: str = "lightness", **arguments: Any) -> MAE:
    method = build("mae", {"width": 16, "depth": 1, "heads": 2, **arguments}, backbone={**VIT, "inputs": inputs})
    assert isinstance(method, MAE)
    return method


@pytest.mark.parametrize("inputs", ["lightness", "rgb"])
def test_the_loss_is_on_masked_patches_normalized_by_themselves(inputs: str) -> None:
    method = make(inputs)
    rgb, numbers = images(3), torch.arange(3)
    x = method.backbone.normalize(method.backbone.to_input(rgb))
    side, columns = method.patch[0], 32 // method.patch[0]
    patches = columns**2
    seen = method.seen(patches)
    assert seen == int(patches * 0.25) >= 1
    method.mask = 1e-17
    assert method.seen(patches) == patches - 1, "something is painted"
    method.mask = 0.75
    captured: dict[str, Any] = {}
    forward = method.forward

    def spy(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
        captured.update(order=order, painted=forward(x, order))
        painted: torch.Tensor = captured["painted"]
        return painted

    method.forward = spy  # type: ignore[method-assign]
    losses = method.image_losses(rgb, numbers, numbers)
    for image in range(3):
        order = captured["order"][image].tolist()
        assert sorted(order) == list(range(patches))
        errors = []
        for patch in order[seen:]:
            row, column = divmod(patch, columns)
            part = x[image, :, row * side : (row + 1) * side, column * side : (column + 1) * side].flatten()
            target = (part - part.mean()) / (part.var() + 1e-6).sqrt()
            errors.append((captured["painted"][image, patch] - target).square().mean())
        torch.testing.assert_close(losses[image], torch.stack(errors).mean())
    assert len({tuple(order) for order in captured["order"].tolist()}) == 3, "each image has a mask of its own"


def test_what_is_masked_is_not_seen() -> None:
    method = make().eval()
    x = method.backbone.normalize(method.backbone.to_input(images(2)))
    order = torch.stack([torch.randperm((32 // method.patch[0]) ** 2) for _ in range(2)])
    painted, side = method(x, order), method.patch[0]
    row, column = divmod(int(order[0, -1]), 32 // side)
    x[0, :, row * side : (row + 1) * side, column * side : (column + 1) * side] += 3
    assert torch.equal(method(x, order), painted)
    row, column = divmod(int(order[0, 0]), 32 // side)
    x[0, :, row * side : (row + 1) * side, column * side : (column + 1) * side] += 3
    assert not torch.equal(method(x, order)[0], painted[0])


def test_a_whole_encoder_is_the_backbone() -> None:
    """Without a mask the encoder computes what the backbone gives to a probe."""
    method = make().eval()
    method.seen, rgb = lambda patches: patches, images(2)  # type: ignore[method-assign]
    tokens: dict[str, torch.Tensor] = {}
    method.norm.register_forward_pre_hook(lambda module, inputs: tokens.update(last=inputs[0]))
    x = method.backbone.normalize(method.backbone.to_input(rgb))
    count = (32 // method.patch[0]) ** 2
    method(x, torch.arange(count).expand(2, -1))
    last = method.backbone(method.backbone.to_input(rgb))[method.backbone.stages[-1].name]
    torch.testing.assert_close(tokens["last"], last.flatten(2).transpose(1, 2))


def test_positions_tell_places_apart() -> None:
    positions = sine_positions(4, 5, 8)
    assert positions.shape == (20, 8)
    for place in range(20):
        row, column = divmod(place, 5)
        expected = []
        for at in (column, row):
            angles = [at / 10_000 ** (k / 2) for k in range(2)]
            expected += [torch.tensor(angles).sin(), torch.tensor(angles).cos()]
        torch.testing.assert_close(positions[place], torch.cat(expected))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"mask": 1}, "mask is 1"), ({"mask": 0}, "mask is 0"), ({"width": 15}, "width must be"), ({"depth": 0}, "depth")],
)
def test_arguments_that_mean_nothing(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make(**arguments)
