"""Contrast and color joined, and the split-brain autoencoder, against their parts."""

import pytest
import torch
from methods import build, images

from pretext.color import rgb_to_ab, rgb_to_lab
from pretext.gamut import Gamut
from pretext.methods.augment import augment
from pretext.methods.contrastive import nt_xent
from pretext.methods.joined import Joined
from pretext.methods.objectives import Classification
from pretext.methods.split_brain import SplitBrainPrediction


@pytest.mark.parametrize(("stage", "hidden"), [("", 0), ("conv4", 0), ("conv4", 8)])
@pytest.mark.parametrize(("inputs", "colored"), [("lightness", "gray"), ("rgb", "gray"), ("rgb", "all")])
@torch.no_grad()
def test_the_joined_loss_is_the_sum_of_both(inputs: str, colored: str, stage: str, hidden: int) -> None:
    arguments = {"color_weight": 0.3, "color_stage": stage, "color_hidden": hidden, "hidden": 16, "dims": 8}
    arguments["color_views"] = colored
    method = build(
        "joined",
        arguments,
        backbone={"inputs": inputs},
        objective={"name": "plain", "stride": 4},
        augment={"gray": [0.4]},
    ).eval()
    assert isinstance(method, Joined)
    rgb, numbers = images(6, views=2), torch.arange(6)
    loss, parts = method.loss(rgb, numbers, numbers)
    seen = [augment(rgb[:, view], numbers, view, method.seed, method.augmentation) for view in (0, 1)]
    features = [method.backbone(method.backbone.to_input(view)) for view in seen]
    contrast = nt_xent(*(method.projector(each["conv5"].mean((2, 3))) for each in features), 0.5)
    losses = []
    for view in (0, 1):
        for image in range(6):
            red, green, blue = seen[view][image]
            if (inputs, colored) == ("rgb", "gray") and not (torch.allclose(red, green) and torch.allclose(red, blue)):
                losses.append(torch.tensor(0.0))
                continue
            logits = method.head(features[view][stage or "conv5"][image : image + 1])
            truth = rgb_to_ab(rgb[image : image + 1, view, :, ::4, ::4])
            side = (logits.shape[-1] - 1) * 4 + 1  # points are 16 pixels apart, the target's 4
            dense = torch.nn.functional.interpolate(logits, size=(side, side), mode="bilinear", align_corners=True)
            dense = torch.nn.functional.pad(dense, (0, 8 - side, 0, 8 - side), "replicate")
            losses.append(Classification(Gamut(10))(dense, truth))
    assert 0 < sum(bool(one > 0) for one in losses) <= (11 if (inputs, colored) == ("rgb", "gray") else 12)
    assert float(parts["contrast"]) == pytest.approx(float(contrast), rel=1e-5)
    assert float(parts["colors"]) == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert float(loss) == pytest.approx(float(parts["contrast"] + 0.3 * parts["colors"]), rel=1e-6)


def test_joined_without_gray_views_is_simclr() -> None:
    rgb, numbers = images(6, views=2), torch.arange(6)
    sizes = {"hidden": 16, "dims": 8}
    joined, simclr = (
        build(name, sizes, backbone={"inputs": "rgb"}, augment={"gray": [0.0]}) for name in ("joined", "simclr")
    )
    total, parts = joined.loss(rgb, numbers, numbers)
    expected = simclr.loss(rgb, numbers, numbers)
    assert isinstance(total, torch.Tensor) and isinstance(expected, torch.Tensor)
    assert float(parts["colors"]) == 0
    total.backward()
    expected.backward()
    theirs = dict(simclr.named_parameters())
    for name, parameter in joined.named_parameters():
        assert parameter.grad is not None, name
        if name in theirs:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=0, atol=0)
        else:
            assert not parameter.grad.any()


@pytest.mark.slow
def test_compiled_it_is_the_same() -> None:
    gradients = []
    for compiled in (False, True):
        torch.manual_seed(0)
        method = build("joined", {"hidden": 16, "dims": 8}, backbone={"inputs": "rgb"}, augment={"gray": [0.5]})
        loss = torch.compile(method.loss, backend="aot_eager") if compiled else method.loss
        total, _ = loss(images(6, views=2), torch.arange(6), torch.arange(6))
        total.backward()
        gradients.append({name: parameter.grad for name, parameter in method.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_split_brain_predicts_each_half_from_the_other() -> None:
    method = build("split_brain", backbone={"name": "split_brain"}, objective={"name": "plain", "stride": 16}).eval()
    assert isinstance(method, SplitBrainPrediction)
    rgb, nothing = images(4), torch.full((4,), -1)
    lab = rgb_to_lab(rgb)
    logits = method.color_head(method.backbone.lightness(lab[:, :1])["conv5"])
    colors = Classification(Gamut(10)).pixel_losses(logits, lab[:, 1:, ::16, ::16])
    logits = method.lightness_head(method.backbone.ab(lab[:, 1:])["conv5"]).log_softmax(1)
    bins = lab[:, 0, ::16, ::16].floor().long().clamp(0, 99)
    lightness = -logits.gather(1, bins[:, None])[:, 0]
    loss, parts = method.loss(rgb, nothing, nothing)
    torch.testing.assert_close(parts["colors"], colors.mean(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts["lightness"], lightness.mean(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loss, parts["colors"] + parts["lightness"])
    torch.testing.assert_close(method.image_losses(rgb, nothing, nothing).mean(), loss)


def test_the_halves_are_joined() -> None:
    backbone = build("split_brain", backbone={"name": "split_brain", "arguments": {"widths": [4, 4, 8, 8, 8]}}).backbone
    rgb = images(2) / 255
    features, lab = backbone(rgb), rgb_to_lab(rgb)
    assert [(stage.channels, stage.stride) for stage in backbone.stages] == [
        (8, 2),
        (8, 4),
        (16, 8),
        (16, 16),
        (16, 16),
    ]
    backbone.eval()
    features = backbone(rgb)
    for name, whole in features.items():
        halves = backbone.lightness(lab[:, :1])[name], backbone.ab(lab[:, 1:])[name]
        torch.testing.assert_close(whole, torch.cat(halves, 1), rtol=1e-4, atol=1e-5)
