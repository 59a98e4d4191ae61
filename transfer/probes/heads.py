"""Linear classifiers side by side: many learning rates and weight decays on the same features, in one product.

The features of a batch are multiplied once with the stacked weights of all classifiers; the gradient is computed in
the same way. No classifier sees another: each learns the same as it would alone, up to the rounding of sums.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Scaling = Literal["none", "standardize", "batch"]

_EPSILON = 1e-5  # of torch's BatchNorm1d
_MEMORY = 0.1


class Setting(NamedTuple):
    """The settings of one classifier of a stack."""

    lr: float
    weight_decay: float


class Linear(NamedTuple):
    """A linear classifier of features, with the scaling that it was trained with."""

    weight: Tensor
    """(classes, dims)."""
    bias: Tensor
    """(classes,)."""
    mean: Tensor
    """(dims,)."""
    scale: Tensor
    """(dims,): the factor of features after the mean is subtracted."""

    def scores(self, features: Tensor) -> Tensor:
        """Return logits: (B, dims) -> (B, classes)."""
        return F.linear((features - self.mean) * self.scale, self.weight, self.bias)


class Heads:
    """A stack of linear classifiers of the same features, each trained by SGD with momentum at its own setting.

    Weights begin at 0: the problem is convex, so they need no seed. Weight decay is coupled
    (added to the gradient, as torch.optim.SGD does) and spares biases.

    Args:
        dims: the dimensions of the features.
        classes: the number of classes.
        settings: one for each classifier.
        scaling: how features are scaled: "none", "standardize" (see ``standardize``), or "batch": torch's batch norm
            without affine, with running statistics for scores.
        momentum: see torch.optim.SGD.
        nesterov: see torch.optim.SGD.
        multilabel: targets are a yes or no for each class (sigmoid), not one class (softmax).
        device: the device of all tensors.
    """

    def __init__(
        self,
        dims: int,
        classes: int,
        settings: Sequence[Setting],
        scaling: Scaling = "none",
        momentum: float = 0.9,
        nesterov: bool = False,
        multilabel: bool = False,
        device: torch.device | None = None,
    ) -> None:
        self.classes, self.settings, self.scaling = classes, list(settings), scaling
        self.momentum, self.nesterov, self.multilabel = momentum, nesterov, multilabel
        rows = len(settings) * classes
        self.weight = torch.zeros(rows, dims, device=device)
        """(heads * classes, dims)."""
        self.bias = torch.zeros(rows, device=device)
        self._weight_velocity, self._bias_velocity = torch.zeros_like(self.weight), torch.zeros_like(self.bias)
        self.mean, self.variance = torch.zeros(dims, device=device), torch.ones(dims, device=device)
        self._set_rates()

    def __len__(self) -> int:
        """Return the number of classifiers."""
        return len(self.settings)

    def standardize(self, mean: Tensor, variance: Tensor) -> None:
        """Set the features' statistics, (dims,) each; a feature that never varies is not scaled."""
        assert self.scaling == "standardize"
        self.mean = mean.to(self.mean)
        self.variance = torch.where(variance > 1e-12, variance, 1.0).to(self.variance)

    def step(self, features: Tensor, targets: Tensor, factor: float) -> None:
        """Take one training step of every classifier.

        Args:
            features: (B, dims), float32.
            targets: (B,), int64; multi-label (B, classes) in {1, 0, -1 (not counted)}.
            factor: the factor of the schedule; multiplies every learning rate.
        """
        if self.scaling == "batch":
            variance, mean = torch.var_mean(features, 0, correction=0)
            unbiased = variance * (len(features) / max(1, len(features) - 1))
            self.mean.lerp_(mean, _MEMORY)
            self.variance.lerp_(unbiased, _MEMORY)
            features = (features - mean) * (variance + _EPSILON).rsqrt()
        else:
            features = self._scaled(features)
        errors = self._errors(self._logits(features), targets)
        rate = self._rate * factor
        if self.nesterov:
            gradient = torch.addcmul(errors.T @ features, self._decay, self.weight)
            self._weight_velocity.mul_(self.momentum).add_(gradient)
            self.weight.addcmul_(gradient.add_(self._weight_velocity, alpha=self.momentum), rate, value=-1)
        else:
            velocity = self._weight_velocity
            torch.addmm(velocity, errors.T, features, beta=self.momentum, out=velocity)
            velocity.addcmul_(self._decay, self.weight)
            self.weight.addcmul_(velocity, rate, value=-1)
        bias_gradient = errors.sum(0)
        self._bias_velocity.mul_(self.momentum).add_(bias_gradient)
        moved = bias_gradient + self.momentum * self._bias_velocity if self.nesterov else self._bias_velocity
        self.bias.addcmul_(moved, rate.squeeze(1), value=-1)

    def scores(self, features: Tensor) -> Tensor:
        """Return logits of every classifier: (B, dims) -> (B, heads, classes)."""
        logits: Tensor = self._logits(self._scaled(features)).unflatten(1, (len(self), self.classes))
        return logits

    def classifier(self, head: int) -> Linear:
        """Return a copy of one classifier."""
        rows = slice(head * self.classes, (head + 1) * self.classes)
        return Linear(self.weight[rows].clone(), self.bias[rows].clone(), self.mean.clone(), self._scale)

    def keep(self, chosen: Sequence[int]) -> None:
        """Drop all classifiers but these."""
        self.settings = [self.settings[head] for head in chosen]
        which = torch.tensor(chosen, dtype=torch.int64, device=self.weight.device)
        for name in ("weight", "bias", "_weight_velocity", "_bias_velocity"):
            rows = getattr(self, name).unflatten(0, (-1, self.classes))
            setattr(self, name, rows[which].flatten(0, 1))
        self._set_rates()

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        tensors = ("weight", "bias", "_weight_velocity", "_bias_velocity", "mean", "variance")
        return {
            "settings": [list(setting) for setting in self.settings],
            **{name: getattr(self, name) for name in tensors},
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore a ``state``."""
        self.settings = [Setting(*setting) for setting in state["settings"]]
        for name in state.keys() - {"settings"}:
            setattr(self, name, state[name].to(self.weight.device))
        self._set_rates()

    @property
    def _scale(self) -> Tensor:
        scale: Tensor = (self.variance + (_EPSILON if self.scaling == "batch" else 0.0)).rsqrt()
        return scale

    def _set_rates(self) -> None:
        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=self.weight.device).repeat_interleave(self.classes)[:, None]

        self._rate = column([setting.lr for setting in self.settings])
        self._decay = column([setting.weight_decay for setting in self.settings])

    def _scaled(self, features: Tensor) -> Tensor:
        return features if self.scaling == "none" else (features - self.mean) * self._scale

    def _logits(self, features: Tensor) -> Tensor:
        return torch.addmm(self.bias, features, self.weight.T)

    def _errors(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the gradient of the mean loss with respect to the logits: (B, heads * classes)."""
        logits = logits.unflatten(1, (len(self), self.classes))
        if self.multilabel:
            errors = (logits.sigmoid() - targets[:, None].clamp_min(0).to(logits)) * (targets >= 0)[:, None]
        else:
            # Not torch's softmax, which is 5 times as slow where classes are few.
            errors = logits.sub_(logits.amax(2, keepdim=True)).exp_()  # in place: the largest tensor of a step
            errors.div_(errors.sum(2, keepdim=True))
            errors[torch.arange(len(targets), device=targets.device), :, targets] -= 1
        return errors.flatten(1).div_(len(logits))


def loss(logits: Tensor, targets: Tensor, multilabel: bool) -> Tensor:
    """Return the loss that ``Heads.step`` minimizes: cross-entropy, or the sum of the classes' binary ones.

    Args:
        logits: (B, classes).
        targets: as in ``Heads.step``.
        multilabel: whether to take the sum of binary cross-entropies.

    Returns:
        A scalar, the mean over images.
    """
    if not multilabel:
        return F.cross_entropy(logits, targets)
    each = F.binary_cross_entropy_with_logits(logits, targets.clamp_min(0).to(logits), reduction="none")
    return (each * (targets >= 0)).sum(1).mean()
