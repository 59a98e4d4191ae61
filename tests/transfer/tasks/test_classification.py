"""Classification: heads and losses on real images; crops against whole scaled images."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from overfit import build_tiny, load_known_images, overfit_images
from PIL import Image
from torch.nn import functional as F

from pretext.data import open_labeled
from pretext.data.batches import Subset, batches, stream
from pretext.data.order import mix, uniforms
from pretext.errors import UserError
from transfer.tasks.classification import (
    Classify,
    ClassifyHeadSettings,
    JitteredExamples,
    JitteredViews,
    JitterSettings,
    jittered_crop,
)

RGB = torch.randint(0, 256, (3, 3, 64, 80), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_over_fits_real_images(shared_data: Path) -> None:
    images = load_known_images(shared_data, 16, 96)
    network = Classify(build_tiny(), 20)
    losses = overfit_images(network, lambda: network.loss(images.rgb, images.presence), 60, 2e-3)
    assert losses[0] == pytest.approx(math.log(2), abs=0.1) and losses[-1] < 0.05
    with torch.inference_mode():
        assert torch.equal(network(images.rgb) > 0, images.presence == 1)


@pytest.mark.parametrize("kind", ["linear", "fc"])
def test_heads(kind: str) -> None:
    head = ClassifyHeadSettings(kind=kind, stage="conv4", width=32, grid=3)  # type: ignore[arg-type]
    network = Classify(build_tiny(), 5, head)
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
    network = Classify(build_tiny(), 4).eval()
    torch.nn.init.normal_(network.head[-1].inner.weight)  # type: ignore[union-attr, arg-type]
    labels = torch.tensor([[1, 0, -1, 0], [-1, -1, -1, -1], [0, -1, 1, 1]], dtype=torch.int8)
    logits = network(RGB)
    entries = [
        F.binary_cross_entropy_with_logits(logits[at], torch.tensor(float(labels[at])))
        for at in ((0, 0), (0, 1), (0, 3), (2, 0), (2, 2), (2, 3))
    ]
    torch.testing.assert_close(network.loss(RGB, labels), torch.stack(entries).mean())
    assert network.loss(RGB, torch.full_like(labels, -1)).item() == 0


def test_frozen_features_stay() -> None:
    network = Classify(build_tiny().requires_grad_(False), 5)
    before = {name: weight.clone() for name, weight in network.named_parameters()}
    overfit_images(network, lambda: network.loss(RGB, torch.tensor([0, 4, 2])), 2, 1e-2)
    changed = {name for name, weight in network.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == {name for name in before if name.startswith("head.")}


@pytest.mark.parametrize(("name", "value"), [("width", 0), ("grid", 0), ("dropout", 1.0), ("dropout", -0.1)])
def test_settings_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"head\.{name} is {value}"):
        ClassifyHeadSettings(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no stage conv9"):
        Classify(build_tiny(), 5, ClassifyHeadSettings(stage="conv9"))


def ramp(width: int, height: int) -> Image.Image:
    """An image that tells where each of its pixels is: red is x, green is y."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0], pixels[..., 1] = np.arange(width), np.arange(height)[:, None]
    return Image.fromarray(pixels)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0]), st.sampled_from([(200, 120), (90, 240), (50, 50)]))
def test_a_crop_shows_size_by_scale_of_the_image(t: int, flip: float, whole: tuple[int, int]) -> None:
    jitter, uniform = JitterSettings(40, (0.5, 2.0), flip), uniforms(1, t, 4)
    crop = jittered_crop(ramp(*whole), jitter, uniform).float()
    assert crop.shape == (3, 40, 40)
    side = 40 / max(0.5 + 1.5 * uniform[0], 40 / min(whole))
    across, down = crop[0].mean(0), crop[1].mean(1)
    across = across.flip(0) if flip else across
    for shown, length, at in ((across, whole[0], uniform[1]), (down, whole[1], uniform[2])):
        middle = (length - side) * at + side / 2 - 0.5
        assert float(shown.mean()) == pytest.approx(middle, abs=1)
        assert float(shown[-5] - shown[4]) == pytest.approx(side * 31 / 40, abs=1.5)


def test_labels_and_batches(shared_data: Path) -> None:
    source = open_labeled(f"voc:2007:trainval:{shared_data / 'voc-mini' / 'VOCdevkit'}")
    examples = JitteredExamples([Subset(source, range(50), seed=0)], JitterSettings(48, (0.25, 1)), seed=2)
    alone, workers = (list(batches(examples, 8, 0, 2, count)) for count in (0, 1))
    for batch, same in zip(alone, workers, strict=True):
        assert batch.rgb.shape == (8, 3, 48, 48) and batch.labels.shape == (8, 20)
        assert torch.equal(batch.rgb, same.rgb) and torch.equal(batch.labels, same.labels)
    part = examples.parts[0]
    assert isinstance(part, Subset)
    for t in range(8):
        index = part.index(examples.locate(t)[1])
        assert alone[0].labels[t].tolist() == source.labels[index].tolist()
        assert torch.equal(alone[0].rgb[t], jittered_crop(source.read(index), examples.jitter, uniforms(2, t, 4)))


def test_ten_crops_of_every_image(shared_data: Path) -> None:
    source = open_labeled(f"voc:2007:test:{shared_data / 'voc-mini' / 'VOCdevkit'}")
    jitter = JitterSettings(32, (0.25, 1))
    views = JitteredViews(source, jitter, 10, seed=5)
    alone, workers = (list(stream(views, range(6), 4, count)) for count in (0, 1))
    assert [batch.rgb.shape for batch in alone] == [(4, 10, 3, 32, 32), (2, 10, 3, 32, 32)]
    assert all(torch.equal(a.rgb, b.rgb) for a, b in zip(alone, workers, strict=True))
    assert [int(label["index"]) for batch in alone for label in batch.labels] == list(range(6))
    third = jittered_crop(source.read(5), jitter, uniforms(mix(5, 5), 3, 4))
    assert torch.equal(alone[1].rgb[1, 3], third), "a pure function of seed, image and number"
    assert len({crop.numpy().tobytes() for crop in alone[0].rgb[0]}) == 10
    other = JitteredViews(source, jitter, 10, seed=6)[0]
    assert other.rgb is not None and not torch.equal(other.rgb, alone[0].rgb[0])


@pytest.mark.parametrize("given", [{"size": 0}, {"scale": (2.0, 1.0)}, {"scale": (0.5, 100.0)}, {"flip": 2}])
def test_settings_that_cannot_be(given: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"jitter.{next(iter(given))} is "):
        JitterSettings(**given)  # type: ignore[arg-type]
