"""A colorizer's pieces fit: grids, targets, lightness kept, and it learns."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from pretext.backbones import Fusion, Siggraph17, Tiny, build_backbone
from pretext.backbones.contract import BackboneSettings
from pretext.color import rgb_to_ab, rgb_to_lightness
from pretext.errors import UserError
from pretext.gamut import Gamut
from pretext.methods.colorization import ClassBranch, Colorizer, join, resample
from pretext.methods.hints import HintSettings, sample_hints
from pretext.methods.objectives import Classification, Regression
from pretext.recipe import PretrainSettings, build_colorizer
from pretext.settings import settings_from


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize("side", [32, 37])
def test_output_and_target_share_a_grid(stride: int, side: int) -> None:
    colorizer = Colorizer(Tiny(), Regression(), stride).eval()
    rgb = torch.randint(0, 256, (2, 3, side, side + 5), dtype=torch.uint8)
    output = colorizer(rgb_to_lightness(rgb))
    target = colorizer.target(rgb)
    assert output.shape == target.shape == (2, 2, -(-side // stride), -(-(side + 5) // stride))
    sampled = rgb_to_ab(rgb)[:, :, ::stride, ::stride]  # not averaged
    torch.testing.assert_close(target, sampled, atol=1e-3, rtol=0)


def test_color_comes_from_lightness_alone() -> None:
    colorizer = Colorizer(Tiny(), Classification(Gamut()), 8).eval()
    lightness = torch.rand(1, 1, 40, 48) * 100
    ab = colorizer.colorize(lightness)
    assert ab.shape == (1, 2, 40, 48)
    assert torch.equal(ab, colorizer.colorize(lightness.clone()))


def test_join_keeps_lightness() -> None:
    lightness = torch.rand(1, 1, 24, 24) * 60 + 20
    ab = (torch.rand(1, 2, 24, 24) - 0.5) * 10  # faint enough to be in the sRGB gamut at these L
    joined = join(lightness, ab)
    assert joined.shape == (1, 3, 24, 24)
    torch.testing.assert_close(rgb_to_lightness(joined), lightness, atol=1e-2, rtol=0)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_colors_come_to_lie_where_they_were_sampled(stride: int) -> None:
    """A ramp that is sampled with a stride and interpolated is the ramp again, up to the last sample."""
    ramp = torch.arange(50.0).expand(1, 2, 41, 50)
    back = resample(ramp[..., ::stride, ::stride], stride, (41, 50))
    assert back.shape == ramp.shape
    last = 49 // stride * stride
    torch.testing.assert_close(back[..., : last + 1], ramp[..., : last + 1])
    assert (back[..., last:] == last).all()


def test_initial_weights_depend_on_the_seed_alone() -> None:
    prior = torch.full((313,), 1 / 313, dtype=torch.float64)
    torch.manual_seed(1)
    first = build_colorizer(PretrainSettings(seed=5), prior).state_dict()
    state = torch.get_rng_state()
    torch.manual_seed(2)
    second = build_colorizer(PretrainSettings(seed=5), prior).state_dict()
    third = build_colorizer(PretrainSettings(seed=6), prior).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], third["head.weight"])
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left alone"


@pytest.mark.parametrize("name", ["tiny", "resnet18"])
def test_it_learns_a_color(name: str) -> None:
    """Light images are orange, dark ones blue: a few steps on any backbone must tell them apart."""
    settings = PretrainSettings(backbone=BackboneSettings(name))
    colorizer = build_colorizer(settings, torch.full((313,), 1 / 313, dtype=torch.float64))
    orange, blue = (torch.tensor(color, dtype=torch.uint8)[:, None, None] for color in ((250, 180, 90), (20, 30, 90)))
    rgb = torch.cat((orange.expand(4, 3, 32, 32), blue.expand(4, 3, 32, 32)))
    optimizer = torch.optim.Adam(colorizer.parameters(), lr=1e-2)
    for _ in range(20):
        loss = colorizer.loss(rgb)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ab = colorizer.train().objective.decode(colorizer(rgb_to_lightness(rgb)))
    assert ab[:4, 1].mean() > 30 > -10 > ab[4:, 1].mean(), "b: yellow above 0, blue below"


def test_any_backbone_of_the_list_can_be_named() -> None:
    assert isinstance(build_backbone("tiny"), nn.Module)


def hinted(width: float = 0.1) -> Colorizer:
    torch.manual_seed(0)
    return Colorizer(Siggraph17(width=width), Regression(), 1, partial(sample_hints, seed=3, settings=HintSettings()))


def test_training_sees_the_hints_of_its_samples_and_nothing_else_does() -> None:
    colorizer = hinted().eval()
    rgb = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    numbers = torch.tensor([5, 6, 7, 8])
    lightness, ab = rgb_to_lightness(rgb), rgb_to_ab(rgb)
    hints, mask = sample_hints(ab, numbers, 3, HintSettings())
    assert mask.any(), "of four images one has a hint"
    expected = colorizer.objective(colorizer(lightness, hints, mask), ab)
    torch.testing.assert_close(colorizer.loss(rgb, None, numbers), expected)
    torch.testing.assert_close(colorizer.image_losses(rgb, None, numbers).mean(), expected)
    unhinted = colorizer.objective(colorizer(lightness), ab)
    torch.testing.assert_close(colorizer.loss(rgb), unhinted)
    assert not torch.allclose(expected, unhinted)


def test_colors_are_asked_for_with_hints_and_without() -> None:
    colorizer = hinted().eval()
    lightness, hints, mask = torch.rand(1, 1, 24, 24) * 100, torch.zeros(1, 2, 24, 24), torch.zeros(1, 1, 24, 24)
    without = colorizer.colorize(lightness)
    assert torch.equal(colorizer.colorize(lightness, hints=hints, mask=mask), without)
    hints[..., 4:8, 4:8], mask[..., 4:8, 4:8] = 50.0, 1.0
    assert not torch.allclose(colorizer.colorize(lightness, hints=hints, mask=mask), without)
    with pytest.raises(UserError, match="takes no hints"):
        Colorizer(Tiny(), Regression(), 4).eval().colorize(lightness, hints=hints, mask=mask)


def test_the_class_branch_adds_alpha_times_cross_entropy() -> None:
    torch.manual_seed(0)
    fusion = Fusion(global_size=32, width=0.1)
    branch = ClassBranch(fusion.vector_channels, 5, weight=1 / 300)
    colorizer = Colorizer(fusion, Regression(), 2, class_branch=branch).eval()
    assert [tuple(value.shape) for value in branch.state_dict().values() if value.ndim == 2] == [(256, 51), (5, 256)]
    rgb, labels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.tensor([0, 4, 2, 2])
    lightness = rgb_to_lightness(rgb)
    scores = branch.layers(fusion.with_vector(lightness)[1]).log_softmax(1)
    named = -scores[torch.arange(4), labels] / 300
    colors = colorizer.objective(colorizer(lightness), colorizer.target(rgb))
    torch.testing.assert_close(colorizer.loss(rgb, labels), colors + named.mean())
    each = colorizer.objective.pixel_losses(colorizer(lightness), colorizer.target(rgb)).mean((1, 2))
    torch.testing.assert_close(colorizer.image_losses(rgb, labels), each + named)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"hints": {"sampled": True}}, "hints.sampled: this backbone takes no hints"),
        ({"objective": {"classes_weight": 0.1}}, "objective.classes_weight: this backbone has no feature vector"),
        ({"objective": {"name": "labels"}}, "set method.name supervised"),
        (
            {"method": {"name": "simclr"}, "objective": {"classes_weight": 0.1}},
            "objective.classes_weight is for method colorization",
        ),
        (
            {"method": {"name": "supervised"}, "hints": {"sampled": True}},
            "hints.sampled is for method colorization; method.name is supervised",
        ),
        ({"objective": {"classes_weight": 0.1}, "hints": {"sampled": True}}, "no backbone takes hints and"),
    ],
)
def test_what_a_backbone_cannot_learn_is_said(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_colorizer(
            settings_from(PretrainSettings, changed, "here"), torch.full((313,), 1 / 313, dtype=torch.float64)
        )
