"""Element-wise criteria over logits, in operators that trace, export and differentiate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from exportloss.config import LossConfig
from exportloss.loss.graph_ops import log1p, minus_abs, sigmoid, sigmoid_of_exp, softplus_sum, total

__all__ = ["Criterion", "make_criterion"]

# (logits, targets in [0, 1]) -> loss, all of one shape
ElementwiseCriterion = Callable[[Tensor, Tensor], Tensor]

# Keeps x ** gamma differentiable at 0 for gamma < 1; negligible in the result.
_SMALLEST_BASE = 1e-12


def make_criterion(config: LossConfig, *, pos_weight: float) -> Criterion:
    """Return the criterion that `config` names; the caller masks and averages.

    Args:
        config: Options; `criterion`, `fl_gamma`, `focal_alpha` and `blur_alpha` are used.
        pos_weight: Weight of the positive part of the cross-entropy (`cls_pw` or `obj_pw`).
    """
    gamma, alpha = config.fl_gamma, config.focal_alpha

    def bce(logits: Tensor, targets: Tensor) -> Tensor:
        return bce_with_logits(logits, targets, pos_weight=pos_weight)

    def focal(logits: Tensor, targets: Tensor) -> Tensor:
        # Lin et al., arXiv 1708.02002, eq. 5, extended to targets between 0 and 1.
        p = sigmoid(logits)
        not_p_t = targets * (1 - p) + (1 - targets) * p
        return bce(logits, targets) * _alpha_weight(targets, alpha) * _power(not_p_t, gamma)

    def quality_focal(logits: Tensor, targets: Tensor) -> Tensor:
        # Li et al., arXiv 2006.04388, eq. 4.
        difference = targets - sigmoid(logits)
        distance = torch.relu(difference) + torch.relu(-difference)  # no Abs, see `minus_abs`
        return bce(logits, targets) * _alpha_weight(targets, alpha) * _power(distance, gamma)

    def blur(logits: Tensor, targets: Tensor) -> Tensor:
        # Confident predictions without a label count less: the label may be missing.
        excess = sigmoid(logits) - targets
        return bce(logits, targets) * (1 - torch.exp((excess - 1) / (config.blur_alpha + 1e-4)))

    if config.effective_criterion == "bce":
        return _CrossEntropy(bce, pos_weight)
    return Criterion(
        {"focal": focal, "qfocal": quality_focal, "blur": blur}[config.effective_criterion]
    )


class Criterion:
    """A criterion of each logit, of any shape.

    Args:
        score: Function from logits and targets of the same shape to losses.
    """

    def __init__(self, score: ElementwiseCriterion) -> None:
        self._score = score

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each logit, without a reduction."""
        return self._score(logits, targets)

    def background(self, logits: Tensor) -> Tensor:
        """Return the sum of the losses of a vector of logits with targets of 0, (1,)."""
        return total(self(logits, torch.zeros_like(logits)))

    def excess(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return by how much each loss exceeds that with a target of 0."""
        return self(logits, targets) - self(logits, torch.zeros_like(logits))


class _CrossEntropy(Criterion):
    """The cross-entropy, whose loss at 0 is log(1 + exp(x)) and which is linear in the target."""

    def __init__(self, score: ElementwiseCriterion, pos_weight: float) -> None:
        super().__init__(score)
        self._pos_weight = pos_weight

    def background(self, logits: Tensor) -> Tensor:
        """Return the sum of the losses of a vector of logits with targets of 0, (1,)."""
        return softplus_sum(logits)

    def excess(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return by how much each loss exceeds that with a target of 0."""
        if self._pos_weight == 1.0:
            return -targets * logits
        return super().excess(logits, targets)


def bce_with_logits(logits: Tensor, targets: Tensor, *, pos_weight: float = 1.0) -> Tensor:
    """Compute the binary cross-entropy `-(w y log p + (1 - y) log(1 - p))`, p = sigmoid(logits).

    Value and gradient are finite for all finite logits and accurate to float32 precision, also far
    from 0.
    """
    if torch.compiler.is_exporting():  # gradient builders know elementary operators only
        return _bce_in_elementary_operators(logits, targets, pos_weight)
    apply: Callable[[Tensor, Tensor, float], Tensor] = _Bce.apply
    return apply(logits, targets, pos_weight)


def _bce_in_elementary_operators(logits: Tensor, targets: Tensor, pos_weight: float) -> Tensor:
    # `logits - 2 * relu` is -|logits| with derivative 1 at 0, which gives the exact gradient p - y
    # there; with abs it would be -y.
    log_term = log1p(torch.exp(logits - 2 * torch.relu(logits)))
    return _bce_of_log_term(log_term, logits, targets, pos_weight)


def _bce_of_log_term(log_term: Tensor, logits: Tensor, targets: Tensor, weight: float) -> Tensor:
    """Compute the cross-entropy from log(1 + exp(-|x|)), without cancellation in either sum."""
    positive = torch.relu(logits)
    minus_log_p = log_term + (positive - logits)
    weighted = targets if weight == 1.0 else targets * weight
    return weighted * minus_log_p + (1 - targets) * (log_term + positive)


class _Bce(torch.autograd.Function):
    """`bce_with_logits` with its own derivative, which is p - y for a positive weight of 1."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, pos_weight: float) -> Tensor:
        e = torch.exp(minus_abs(logits))
        ctx.save_for_backward(logits, targets, e)
        ctx.pos_weight = pos_weight
        log_term = torch.log1p(e)
        if pos_weight == 1.0:
            return log_term + (torch.relu(logits) - targets * logits)
        return _bce_of_log_term(log_term, logits, targets, pos_weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (logits, targets, e), (gradient,) = ctx.saved_tensors, gradients
        p = sigmoid_of_exp(logits, e)
        if ctx.pos_weight == 1.0:
            return gradient * (p - targets), None, None
        positive = targets * ctx.pos_weight
        return gradient * (p * (1 - targets) - positive * (1 - p)), None, None


def _alpha_weight(targets: Tensor, alpha: float) -> Tensor:
    return targets * alpha + (1 - targets) * (1 - alpha)


def _power(base: Tensor, gamma: float) -> Tensor:
    return torch.clamp(base, min=_SMALLEST_BASE) ** gamma
