"""Contrast and color joined, and the split-brain autoencoder, against their parts."""

import pytest
import torch
from methods import build, images

from pretext.color import lightness_to_gray, rgb_to_ab, rgb_to_lab
from pretext.gamut import Gamut
from pretext.methods.augment import augment
from pretext.methods.contrastive import nt_xent
from pretext.methods.joined import Joined
from pretext.methods.objectives import Classification
from pretext.methods.split_brain import CrossChannel


@pytest.mark.parametrize("stage", ["", "conv4"])
@pytest.mark.parametrize("inputs", ["lightness", "rgb"])
def test_the_joined_loss_is_the_sum_of_both(inputs: str, stage: str) -> None:
    arguments = {"color_weight": 0.3, "color_stage": stage, "hidden": 16, "dims": 8}
    method = build("joined", arguments, backbone={"inputs": inputs}, objective={"name": "plain", "stride": 4}).eval()
    assert isinstance(method, Joined)
    rgb, numbers = images(6, views=2), torch.arange(6)
    loss, parts = method.loss(rgb, numbers, numbers)
    first, second = (method.view(rgb[:, view], numbers, view) for view in (0, 1))
    colored = [rgb[:, 0], rgb[:, 1]]
    if inputs == "rgb":
        colored = [rgb[:, 1]]
        plain = augment(rgb[:, 1], numbers, 1, method.seed, method.augmentation)
        expected = lightness_to_gray(rgb_to_lab(plain)[:, :1]).expand(-1, 3, -1, -1)
        torch.testing.assert_close(second, expected, rtol=0, atol=1e-6)
    features = [method.backbone(method.backbone.to_input(view)) for view in (first, second)]
    contrast = nt_xent(*(method.projector(each["conv5"].mean((2, 3))) for each in features), 0.5)
    losses = []
    for seen, crops in zip(features[-len(colored) :], colored, strict=True):
        logits = method.head(seen[stage or "conv5"])
        truth = rgb_to_ab(crops[..., ::4, ::4])
        side = (logits.shape[-1] - 1) * 4 + 1  # points are 16 pixels apart, the target's 4
        dense = torch.nn.functional.interpolate(logits, size=(side, side), mode="bilinear", align_corners=True)
        dense = torch.nn.functional.pad(dense, (0, 8 - side, 0, 8 - side), "replicate")
        losses.append(Classification(Gamut(10))(dense, truth))
    assert float(parts["contrast"]) == pytest.approx(float(contrast.detach()), rel=1e-5)
    assert float(parts["colors"]) == pytest.approx(float(torch.stack(losses).mean().detach()), rel=1e-5)
    assert float(loss) == pytest.approx(float(parts["contrast"] + 0.3 * parts["colors"]), rel=1e-6)


def test_split_brain_predicts_each_half_from_the_other() -> None:
    method = build("split_brain", backbone={"name": "split_brain"}, objective={"name": "plain", "stride": 16}).eval()
    assert isinstance(method, CrossChannel)
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
