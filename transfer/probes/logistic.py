"""Multinomial logistic regression to its optimum."""

import math

import torch
from torch import Tensor

from transfer.probes.heads import Linear, loss
from transfer.probes.sweep import score
from transfer.protocols import LogisticProtocol


def fit_linear(
    features: Tensor, targets: Tensor, start: Linear, penalty: float, iterations: int, tolerance: float = 1e-4
) -> Linear:
    """Logistic regression by L-BFGS: mean loss plus penalty / 2 times the squared weights.

    Args:
        features: (N, dims), scaled already.
        targets: as in ``Heads.step``.
        start: where to begin.
        penalty: on the weights, not on the bias. scikit-learn's C is 1 / (N * penalty).
        iterations: at most.
        tolerance: it ends where no part of the gradient is greater (scikit-learn's default).

    Returns:
        The classifier, with ``start``'s scaling.
    """
    weight, bias = (part.clone().requires_grad_() for part in (start.weight, start.bias))
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=iterations, history_size=10, tolerance_grad=tolerance, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        logits = torch.nn.functional.linear(features, weight, bias)
        value = loss(logits, targets, targets.ndim == 2) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return start._replace(weight=weight.detach(), bias=bias.detach())


def choose_logistic(
    fit: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], classes: int, protocol: LogisticProtocol
) -> tuple[Linear, float, float]:
    """Fit with every penalty, choose on held-out images, fit again to all.

    Args:
        fit: features (N, dims) and targets of the images that teach.
        held: of those that choose.
        classes: how many.
        protocol: how.

    Returns:
        The classifier, the penalty, and its score on the held-out images.
    """
    known, mean, scale = _standardized(fit[0])
    asked = (held[0] - mean) * scale
    start = Linear(known.new_zeros(classes, known.shape[1]), known.new_zeros(classes), mean, scale)
    best, chosen, classifier = -math.inf, 0.0, start
    tried = start
    for penalty in protocol.penalties:
        tried = fit_linear(known, fit[1], tried, penalty, protocol.iterations)
        found = score(torch.nn.functional.linear(asked, tried.weight, tried.bias), held[1])
        if found > best:
            best, chosen, classifier = found, penalty, tried
    every, mean, scale = _standardized(torch.cat((fit[0], held[0])))
    start = classifier._replace(mean=mean, scale=scale)
    return fit_linear(every, torch.cat((fit[1], held[1])), start, chosen, protocol.iterations), chosen, best


def _standardized(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features with mean 0 and deviation 1, the mean that was taken off, and what they were multiplied by."""
    variance, mean = torch.var_mean(features, 0, correction=0)
    scale = torch.where(variance > 1e-12, variance, 1.0).rsqrt()
    return (features - mean) * scale, mean, scale
