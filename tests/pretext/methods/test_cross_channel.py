"""Cross-channel prediction: against colorization, known answers, its targets, and what it refuses."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from methods import build, images
from torch import Tensor

from pretext.codebook import Codebook
from pretext.color import rgb_to_ab, rgb_to_lightness
from pretext.engine.device import ComputeConfig
from pretext.errors import UserError
from pretext.methods.colorization import Colorization
from pretext.methods.cross_channel import CrossChannel
from pretext.methods.objectives import Classification
from pretext.scale import ScaleSettings, find_ranges, set_ranges

CPU = ComputeConfig(torch.device("cpu"), "fp32", 0)


def cross_channel(
    channels: Sequence[str], shown: Sequence[str], crops: Tensor | None = None, **arguments: Any
) -> CrossChannel:
    """Return the method for images of these channels, prepared with crops (N, C, H, W)."""
    objective = {"stride": 4, "name": arguments.pop("name", "plain"), "neighbors": arguments.pop("neighbors", 5)}
    data = {"source": f"channels:{','.join(channels)}:folder"}
    method = build("cross_channel", arguments, data=data, backbone={"inputs": list(shown)}, objective=objective)
    assert isinstance(method, CrossChannel)
    if crops is not None:
        ranges = find_ranges(list(crops), channels, ScaleSettings(percentiles=(0, 100)))
        for scale in (method.scale, method.backbone.scale):
            assert scale is not None
            set_ranges(scale, ranges)
        method.prepare(list(crops))
    return method


def flat_images(vectors: Tensor, side: int = 32) -> Tensor:
    """Return images (N, C, side, side) of one value for each channel, of vectors (N, C)."""
    return vectors[:, :, None, None].expand(-1, -1, side, side).contiguous()


@torch.no_grad()
def test_with_lab_and_the_gamut_it_is_colorization() -> None:
    rgb, numbers = images(6), torch.arange(6)
    colorization = build("colorization")
    assert isinstance(colorization, Colorization)
    method = cross_channel(["L", "a", "b"], ["L"], hidden=["a", "b"], codes=16)
    assert isinstance(colorization.objective, Classification)
    method.objectives[0] = colorization.objective
    method.head = colorization.head
    method.backbone = colorization.backbone  # reads L, unscaled
    method.backbone.to_unit = lambda lab: lab[:, :1]  # type: ignore[method-assign]
    method.backbone.from_unit = lambda unit: unit  # type: ignore[method-assign]
    method.draw_hidden = lambda numbers: torch.zeros(6, 1, dtype=torch.bool)  # type: ignore[method-assign]
    method.scale.forward = lambda values: values  # type: ignore[method-assign]
    lab = torch.cat([rgb_to_lightness(rgb), rgb_to_ab(rgb)], 1)
    colorization.objective.gray_threshold = 0.0
    expected = colorization.image_losses(rgb)
    assert torch.equal(method.image_losses(lab, numbers, numbers), expected)
    loss = method.loss(lab, numbers, numbers)
    assert isinstance(loss, Tensor) and torch.equal(loss, colorization.loss(rgb))


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_soft_encoding_is_that_of_brute_force(channels: int) -> None:
    generator = torch.Generator().manual_seed(channels)
    points = torch.rand(3000, channels, generator=generator)
    book = Codebook(36, channels, neighbors=7)
    book.fit(points, seed=0)
    values = torch.rand(2, channels, 3, 4, generator=generator)
    target = book.encode(values)
    for image in range(2):
        for row in range(3):
            for column in range(4):
                apart = (values[image, :, row, column].double() - book.centers.double()).norm(dim=1)
                nearest = apart.argsort()[:7]
                weights = torch.exp(-(apart[nearest] ** 2) / (2 * float(book.sigma) ** 2))
                assert target.bins[image, :, row, column].tolist() == nearest.tolist()
                torch.testing.assert_close(
                    target.weights[image, :, row, column].double(), weights / weights.sum(), rtol=1e-4, atol=1e-6
                )


def test_codes_are_a_grid_or_the_centers_of_k_means() -> None:
    book = Codebook(9, 2, neighbors=1)
    book.fit(torch.rand(50, 2), seed=0)
    assert book.centers.tolist() == [[a, b] for a in (0, 0.5, 1) for b in (0, 0.5, 1)] and float(book.sigma) == 0.25
    points = torch.rand(5, 3).repeat_interleave(20, 0) + 1e-4 * torch.rand(100, 3)
    book = Codebook(5, 3, neighbors=1)
    book.fit(points, seed=0)
    assert float(torch.cdist(points[::20], book.centers).amin(1).max()) < 1e-3
    with pytest.raises(UserError, match="only 2 different values of the hidden channels; set fewer codes"):
        Codebook(5, 3, neighbors=1).fit(torch.eye(3)[:2], seed=0)


def train(method: CrossChannel, crops: Callable[[], Tensor], steps: int) -> None:
    """Train on ``crops()`` in every step."""
    optimizer = torch.optim.Adam(method.parameters(), 3e-3)
    for _ in range(steps):
        images = crops()
        numbers = torch.arange(len(images))
        loss = method.loss(images, numbers, numbers)
        assert isinstance(loss, Tensor)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def test_what_follows_from_the_shown_channels_is_predicted_to_the_codes_distance() -> None:
    shown = torch.rand(48, 2, generator=torch.Generator().manual_seed(0))
    hidden = torch.stack([1 - shown[:, 0] ** 2, shown.mean(1)], 1)
    crops = flat_images(torch.cat([100 * shown, 3 * hidden], 1), side=16)
    method = cross_channel(["p", "q", "r", "s"], ["p", "q"], crops, hidden=["r", "s"], codes=64)
    method.backbone.eval()  # batch norm of a batch would mix images
    train(method, lambda: crops, 250)
    health, sheet = method.eval().diagnostics(crops, torch.full((48,), -1), None, CPU)
    step = 3 / 7  # codes lie so far apart, in units of the images
    assert health["error_r"] < step / 2 and health["error_s"] < step / 2 and health["recall"] > 0.7
    assert sheet is not None


def test_noise_costs_the_entropy_of_the_prior() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return torch.rand(24, 2, 32, 32, generator=generator)

    crops = draw()
    method = cross_channel(["p", "q"], ["p"], crops, hidden=["q"], codes=16)
    target = method.objectives[0].gamut.encode(method.targets(crops)[0])
    prior = torch.zeros(16).index_add_(0, target.bins.flatten(), target.weights.flatten())
    entropy = float(torch.special.entr(prior / prior.sum()).sum())
    train(method, draw, 80)
    loss = method.eval().image_losses(draw(), torch.zeros(24), torch.arange(24)).mean().item()
    assert entropy < math.log(16) and loss == pytest.approx(entropy, rel=0.02)


def test_dropped_channels_alone_have_a_loss_and_are_not_seen() -> None:
    crops = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = cross_channel(["p", "q", "r"], ["p", "q"], crops, hidden=["r"], codes=16, drop=0.4).eval()
    numbers = torch.arange(40)
    hidden = method.draw_hidden(numbers)
    assert 0.2 < hidden.float().mean() < 0.45 and not hidden.all(1).any() and method.groups == [("r",), ("p",), ("q",)]
    assert torch.equal(method.draw_hidden(numbers[7:9]), hidden[7:9])
    losses = method.pixel_losses(crops, numbers)
    for at in (0, 1):
        assert torch.equal(losses[1 + at].flatten(1).amax(1) > 0, hidden[:, at])
    changed = crops.clone()
    changed[:, :2][hidden] = torch.rand(())  # the loss of the others must not see it
    assert torch.equal(method.pixel_losses(changed, numbers)[0], losses[0])


def test_unknown_values_have_no_loss_and_lie_in_the_middle() -> None:
    crops = torch.rand(8, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    method = cross_channel(["p", "q"], ["p"], crops, hidden=["q"], codes=16).eval()
    broken = crops.clone()
    broken[0, 1, :16] = torch.nan
    broken[1, 0] = torch.nan
    losses = method.pixel_losses(broken, torch.arange(8))[0]
    assert (losses[0, :4] == 0).all() and (losses[0, 4:] > 0).all() and losses.isfinite().all()
    middle = crops.clone()
    assert method.backbone.scale is not None
    middle[1, 0] = (method.backbone.scale.low + method.backbone.scale.high) / 2
    torch.testing.assert_close(losses[1], method.pixel_losses(middle, torch.arange(8))[0][1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden": ["s"]}, "hidden channel s is not there; data.source has p, q, r"),
        ({"hidden": ["p"]}, "hidden channel p is in backbone.inputs, too"),
        ({"hidden": "r"}, "hidden is r: give a list of different channels"),
        ({"hidden": 5}, "hidden is 5: give a list of channels' names"),
        ({"hidden": [["r"]]}, "give a list of channels' names"),
        ({"colors": ["blue"]}, "give a color for each name"),
        ({"hidden": ["r"], "colors": {"s": "blue"}}, "colors has s, which is no channel; data.source has p, q, r"),
        ({"hidden": ["r", "r"]}, "give a list of different channels"),
        ({}, "no channel is hidden"),
        ({"drop": 0.3}, "no channel is hidden"),
        ({"hidden": ["r"], "drop": 1.0}, r"drop is 1.0: it must lie in \[0, 1\)"),
        ({"hidden": ["r"], "codes": 3}, r"codes is 3: it must lie in \[5, 4096\]"),
        ({"hidden": ["q", "r"], "codes": 12}, "a square for two hidden channels"),
        ({"hidden": ["r"], "colors": {"p": "greeen"}}, "greeen is no color"),
        ({"hidden": ["r"], "name": "regression"}, "set rebalanced or plain"),
    ],
)
def test_what_it_refuses(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cross_channel(["p", "q", "r"], ["p"], **arguments)


def test_photographs_are_for_colorization() -> None:
    with pytest.raises(UserError, match=r"backbone.inputs is lightness; name the channels that it reads"):
        build("cross_channel", {"hidden": ["a"]})
    with pytest.raises(UserError, match=r"method colorization learns colors, but data.source has channels p, q"):
        build("colorization", data={"source": "channels:p,q:folder"})
    with pytest.raises(UserError, match=r"data.source: the backbone reads lightness, which p, q do not have"):
        build("rotation", data={"source": "channels:p,q:folder"})
    with pytest.raises(UserError, match=r"augment.saturation changes colors, which named channels do not have"):
        build("simclr", data={"source": "channels:p,q:folder"}, backbone={"inputs": ["p"]})


def test_hidden_channels_that_are_never_known_together_are_refused() -> None:
    crops = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    crops[:, 1, :, :16] = torch.nan
    crops[:, 2, :, 16:] = torch.nan
    with pytest.raises(UserError, match="nowhere finite together in the first training images"):
        cross_channel(["p", "q", "r"], ["p"], crops, hidden=["q", "r"], codes=16)


def test_names_of_losses_are_no_fields_of_the_journal() -> None:
    crops = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    method = cross_channel(["lr", "loss", "r"], ["lr", "loss"], crops, drop=0.5, codes=16)
    losses = method.loss(crops, torch.full((8,), -1), torch.arange(8))
    assert isinstance(losses, tuple) and losses[1].keys() == {"loss_lr", "loss_loss"}
