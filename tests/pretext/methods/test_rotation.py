"""Rotation against its definition."""

import torch
from methods import build, images

from pretext.engine.device import ComputeConfig
from pretext.methods.rotation import Rotation


def test_each_image_is_told_in_four_rotations() -> None:
    method = build("rotation").eval()
    assert isinstance(method, Rotation)
    rgb, nothing = images(5), torch.full((5,), -1)
    losses = []
    for image in rgb:
        of_image = []
        for quarters in range(4):
            turned = torch.from_numpy(image.numpy().transpose(1, 2, 0)).rot90(quarters, (0, 1)).permute(2, 0, 1)
            features = method.backbone(method.backbone.to_input(turned[None]))["conv5"].mean((2, 3))
            of_image.append(-method.head(features).log_softmax(1)[0, quarters])
        losses.append(torch.stack(of_image).mean())
    expected = torch.stack(losses)
    torch.testing.assert_close(method.image_losses(rgb, nothing, nothing), expected)
    torch.testing.assert_close(method.loss(rgb, nothing, nothing), expected.mean())
    health, sheet = method.diagnostics(rgb, nothing, None, ComputeConfig(torch.device("cpu"), "fp32", 0))
    assert abs(health["loss"] - expected.mean().item()) < 1e-5 and 0 <= health["accuracy"] <= 1 and sheet is None
