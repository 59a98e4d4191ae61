"""Classification: heads, losses of one label and of several, on real images."""

import math
from pathlib import Path

import pytest
import torch
from fitting import fit, known, tiny
from torch.nn import functional as F

from pretext.errors import UserError
from transfer.tasks.classification import Classify, ClassifyHeadSettings

RGB = torch.randint(0, 256, (3, 3, 64, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_over_fits_real_images(shared_data: Path) -> None:
    images = known(shared_data, 16, 96)
    network = Classify(tiny(), 20)
    losses = fit(network, lambda: network.loss(images.rgb, images.presence), 60, 2e-3)
    assert losses[0] == pytest.approx(math.log(2), abs=0.1) and losses[-1] < 0.05
    with torch.inference_mode():
        assert torch.equal(network.predict(images.rgb) > 0, images.presence == 1)


@pytest.mark.parametrize("kind", ["linear", "fc"])
def test_heads(kind: str) -> None:
    head = ClassifyHeadSettings(kind=kind, stage="conv4", width=32, grid=3)  # type: ignore[arg-type]
    network = Classify(tiny(), 5, head)
    assert {name.split(".")[0] for name, _ in network.named_parameters()} == {"features", "head"}
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(RGB)
    assert logits.shape == (3, 5) and logits.dtype == torch.float32
    loss = network.loss(RGB, torch.tensor([0, 4, 2]))
    torch.testing.assert_close(loss, torch.tensor(math.log(5)), atol=0.2, rtol=0)
    loss.backward()
    unused = {name for name, weight in network.named_parameters() if weight.grad is None}
    assert unused and all("conv5" in name for name in unused), "all but the stage after learn"


def test_labels_that_do_not_count() -> None:
    network = Classify(tiny(), 4).eval()
    torch.nn.init.normal_(network.head[-1].inner.weight)  # type: ignore[union-attr, arg-type]
    labels = torch.tensor([[1, 0, -1, 0], [-1, -1, -1, -1], [0, -1, 1, 1]], dtype=torch.int8)
    logits = network.predict(RGB)
    entries = [
        F.binary_cross_entropy_with_logits(logits[at], torch.tensor(float(labels[at])))
        for at in ((0, 0), (0, 1), (0, 3), (2, 0), (2, 2), (2, 3))
    ]
    torch.testing.assert_close(network.loss(RGB, labels), torch.stack(entries).mean())
    assert network.loss(RGB, torch.full_like(labels, -1)).item() == 0


def test_frozen_features_stay() -> None:
    network = Classify(tiny().requires_grad_(False), 5)
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    fit(network, lambda: network.loss(RGB, torch.tensor([0, 4, 2])), 2, 1e-2)
    changed = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith("head.")}


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("grid", 0), ("dropout", 1.0), ("dropout", -0.1)])
def test_settings_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"head\.{name} is {value}"):
        ClassifyHeadSettings(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no stage conv9"):
        Classify(tiny(), 5, ClassifyHeadSettings(stage="conv9"))
