"""Losses and gradients against dense definitions under plain autograd."""

import numpy as np
import pytest
import torch
from torch import Tensor

from pretext.errors import UserError
from pretext.gamut import Gamut, SoftTarget
from pretext.methods.objectives import Classification, Objective, ObjectiveSettings, Regression, soft_cross_entropy


@pytest.fixture(scope="module")
def gamut() -> Gamut:
    return Gamut(neighbors=5)


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def some_ab() -> Tensor:
    """Four images: three of color, of which one has a single colored pixel, and a gray one (the second)."""
    ab = random(4, 2, 3, 5, seed=1, scale=30)
    ab[1] = torch.linspace(-5, 5, 30).reshape(2, 3, 5)
    ab[2] = 0
    ab[2, 1, 0, 4] = -5.01
    return ab


COLORED = torch.tensor([True, False, True, True])


def dense_cross_entropy(logits: Tensor, target: SoftTarget) -> Tensor:
    dense = torch.zeros_like(logits).scatter(1, target.bins, target.weights.to(logits))
    return -(dense * logits.log_softmax(1)).sum(1)


def gradients(loss: Tensor, leaf: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("neighbors", [1, 5, 10])
def test_sparse_is_dense_cross_entropy(neighbors: int, scale: float) -> None:
    target = Gamut(neighbors).encode(some_ab())
    logits = random(4, 313, 3, 5, scale=scale).requires_grad_()
    upstream = random(4, 3, 5, seed=2)
    sparse, dense = soft_cross_entropy(logits, target), dense_cross_entropy(logits, target)
    assert sparse.shape == (4, 3, 5) and sparse.dtype == torch.float64
    # The weights are float32 and add up to 1 only to that.
    assert torch.allclose(sparse, dense, rtol=1e-6, atol=1e-6)
    ours, autograd = gradients((sparse * upstream).sum(), logits), gradients((dense * upstream).sum(), logits)
    assert torch.allclose(ours, autograd, rtol=1e-6, atol=1e-6)


def test_gradcheck(gamut: Gamut) -> None:
    bins, weights = gamut.encode(some_ab()[:2, :, :1, :2])
    weights = weights.double()
    target = SoftTarget(bins, weights / weights.sum(1, keepdim=True))
    logits = random(2, 313, 1, 2, scale=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: soft_cross_entropy(z, target), logits)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_logits_lose_nothing_in_the_loss(gamut: Gamut, half: torch.dtype) -> None:
    target = gamut.encode(some_ab())
    low = random(4, 313, 3, 5, scale=5).to(half).requires_grad_()
    full = low.detach().float().requires_grad_()
    loss, expected = soft_cross_entropy(low, target), dense_cross_entropy(full, target)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, expected, rtol=1e-5)
    got = gradients(loss.sum(), low)
    assert got.dtype == half
    # Rounded once, at the end: half a unit in the last place, or what float16 cannot hold.
    assert torch.allclose(got.float(), gradients(expected.sum(), full), rtol=torch.finfo(half).eps, atol=1e-7)


def test_classification_is_the_weighted_dense_loss(gamut: Gamut) -> None:
    ab, weights = some_ab(), torch.rand(313, generator=torch.Generator().manual_seed(3)) + 0.1
    objective = Classification(gamut, weights)
    assert objective.channels == 313
    logits = random(4, 313, 3, 5, scale=3).requires_grad_()
    nearest = ((ab.movedim(1, -1)[..., None, :] - gamut.centers.double()) ** 2).sum(-1).argmin(-1)
    pixels = dense_cross_entropy(logits, gamut.encode(ab)) * weights[nearest]
    assert torch.allclose(objective.pixel_losses(logits, ab), pixels, rtol=1e-6)
    expected = (pixels * COLORED[:, None, None]).sum() / (4 * 3 * 5)
    loss = objective(logits, ab)
    assert loss.shape == ()
    assert torch.allclose(loss, expected, rtol=1e-6)
    assert torch.allclose(gradients(loss, logits), gradients(expected, logits), rtol=1e-5, atol=1e-9)


def test_without_weights_every_pixel_counts_the_same(gamut: Gamut) -> None:
    ab, logits = some_ab(), random(4, 313, 3, 5)
    plain = Classification(gamut).pixel_losses(logits, ab)
    assert torch.allclose(plain, dense_cross_entropy(logits, gamut.encode(ab)), rtol=1e-6)
    assert torch.equal(plain, Classification(gamut, torch.ones(313)).pixel_losses(logits, ab))


def test_uniform_and_right_predictions(gamut: Gamut) -> None:
    ab = some_ab()
    objective = Classification(gamut, gray_threshold=0)
    assert objective(torch.zeros(4, 313, 3, 5), ab).item() == pytest.approx(np.log(313), rel=1e-6)
    target = gamut.encode(ab)
    log_target = torch.full((4, 313, 3, 5), -1e4).scatter(1, target.bins, target.weights.log())
    entropy = -(target.weights * target.weights.log()).sum(1).mean()  # the least that is possible
    assert objective(log_target, ab).item() == pytest.approx(entropy.item(), rel=1e-5)


def test_regression_is_half_the_squared_distance() -> None:
    ab = some_ab()
    objective = Regression()
    assert objective.channels == 2
    output = random(4, 2, 3, 5, seed=4).float().requires_grad_()
    difference = output.double() - ab / 110
    pixels = (difference[:, 0] ** 2 + difference[:, 1] ** 2) / 2
    assert torch.allclose(objective.pixel_losses(output, ab).double(), pixels, rtol=1e-5)
    loss = objective(output, ab)
    assert loss.item() == pytest.approx((pixels * COLORED[:, None, None]).mean().item(), rel=1e-5)
    expected = difference * COLORED[:, None, None, None] / (4 * 3 * 5)
    assert torch.allclose(gradients(loss, output).double(), expected, atol=1e-6)
    half = output.detach().bfloat16()
    assert torch.equal(objective.pixel_losses(half, ab.float()), objective.pixel_losses(half.float(), ab.float()))


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize(
    ("threshold", "counts"),
    [(5.0, [0, 0, 1, 1]), (0.0, [0, 1, 1, 1]), (5.5, [0, 0, 0, 1])],
)
def test_gray_images_count_with_zero_loss(gamut: Gamut, kind: str, threshold: float, counts: list[int]) -> None:
    ab = torch.zeros(4, 2, 3, 3)
    ab[1, 0, 2, 1] = -5.0  # at the threshold of 5, not above
    ab[2, 1, 0, 0] = -5.01
    ab[3] = 40
    objective: Objective = (
        Classification(gamut, gray_threshold=threshold)
        if kind == "classification"
        else Regression(gray_threshold=threshold)
    )
    output = random(4, objective.channels, 3, 3).requires_grad_()
    loss = objective(output, ab)
    per_image = objective.pixel_losses(output, ab).mean((1, 2))
    assert loss.item() == pytest.approx((per_image * torch.tensor(counts)).sum().item() / 4, rel=1e-6)
    assert gradients(loss, output).abs().sum((1, 2, 3)).bool().tolist() == [bool(count) for count in counts]


def test_only_gray_images_make_a_zero_loss_with_a_gradient(gamut: Gamut) -> None:
    output = random(2, 313, 3, 3).requires_grad_()
    loss = Classification(gamut)(output, torch.zeros(2, 2, 3, 3))
    assert loss.item() == 0
    assert not gradients(loss, output).any()


def test_decode(gamut: Gamut) -> None:
    logits = random(2, 313, 3, 4, scale=3).float()
    classification = Classification(gamut)
    for temperature in (0.38, 1.0):
        expected = torch.einsum("bqhw,qc->bchw", (logits / temperature).softmax(1), gamut.centers)
        assert torch.allclose(classification.decode(logits, temperature), expected, atol=1e-4)
    assert torch.equal(classification.decode(logits), classification.decode(logits, 0.38))
    output = random(2, 2, 3, 4, seed=5).bfloat16()
    assert torch.equal(Regression().decode(output), output.float() * 110)


def test_a_bounded_regression_keeps_ab_below_110() -> None:
    output, ab = torch.randn(2, 2, 5, 7) * 3, torch.rand(2, 2, 5, 7) * 200 - 100
    bounded = Regression(gray_threshold=0, bounded=True)
    assert torch.allclose(bounded.decode(output), 110 * torch.tanh(output))
    assert torch.allclose(bounded(output, ab), Regression(gray_threshold=0)(torch.tanh(output), ab))
    assert bounded.decode(torch.full((1, 2, 1, 1), 99.0)).max() <= 110
    with pytest.raises(UserError, match=r"objective.bounded is for a regression; objective.name is plain"):
        ObjectiveSettings("plain", bounded=True)


def test_huber_by_its_definition() -> None:
    output, ab = random(2, 2, 5, 7, scale=0.5), random(2, 2, 5, 7, seed=2, scale=40)
    for bounded in (False, True):
        found = Regression(gray_threshold=0, bounded=bounded, huber=20.0).pixel_losses(output, ab)
        error = (110 * (torch.tanh(output) if bounded else output) - ab).abs()  # in Lab units
        expected = torch.where(error <= 20, error**2 / 2, 20 * (error - 10)).sum(1) / 110**2
        torch.testing.assert_close(found, expected)
    far = Regression(huber=1e6).pixel_losses(output, ab)
    torch.testing.assert_close(far, Regression().pixel_losses(output, ab))
    with pytest.raises(UserError, match=r"objective.huber is for a regression; objective.name is plain"):
        ObjectiveSettings("plain", huber=1.0)
    with pytest.raises(UserError, match=r"objective.huber and"):
        ObjectiveSettings("regression", huber=float("nan"))
