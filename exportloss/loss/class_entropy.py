"""The cross-entropy of all classes of a box, whose gradient is formed once per box."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from exportloss.loss.graph_ops import minus_abs, sigmoid_of_exp, softplus
from exportloss.loss.shared_cells import SharedCells

__all__ = ["class_entropy"]


def class_entropy(
    logits: Tensor, category: Tensor, shared: SharedCells, *, pos_weight: float, smoothing: float
) -> Tensor:
    """Compute the cross-entropy of the classes of each slot, summed over the classes.

    The target is 1 - smoothing / 2 at the slot's class and smoothing / 2 elsewhere. Slots that
    share a box have the same logits, and their gradients differ at their classes only. So the last
    slot of a box gets the gradient of all of them, from the sum of their weights.

    Args:
        logits: (nl, na, S, M, nc); those of slots that share a box are equal.
        category: (M,) int64 class of each target row.
        shared: Slots that share a box, without pairs.
        pos_weight: Weight of the positive part.
        smoothing: Label smoothing, 0 to 1.

    Returns:
        (nl, na, S, M).
    """
    shape, classes = logits.shape[:-1], logits.shape[-1]
    slots = torch.arange(shape.numel(), device=logits.device)
    own = (slots.reshape(shape) * classes + category).flatten()
    last = shared.last_boxes(shape[1]).flatten()
    at_last = (last.reshape(shape) * classes + category).flatten()
    apply: Callable[..., Tensor] = _ClassEntropy.apply
    rows = logits.reshape(-1, classes)
    return apply(rows, own, last, at_last, pos_weight, smoothing).reshape(shape)


class _ClassEntropy(torch.autograd.Function):
    """`class_entropy` of flat slots.

    With s(x) = log(1 + exp(x)), a class with target y costs (1 - y) s(x) + y w s(-x). Over all
    classes that is a s(x) - w n x, summed, for n = smoothing / 2 and a = 1 - n + w n, and besides
    (1 - 2 n) ((w - 1) s(-x) - x) at the slot's class.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - apply takes no keywords
        ctx: Any,
        logits: Tensor,
        own: Tensor,
        last: Tensor,
        at_last: Tensor,
        pos_weight: float,
        smoothing: float,
    ) -> Tensor:
        positive = torch.relu(logits)
        negative = logits - positive
        e = torch.exp(negative - positive)
        y = 1 + e
        x = logits.flatten().index_select(0, own)  # of the slot's class
        ctx.save_for_backward(negative, y, x, last, at_last)
        ctx.weights = _weights(pos_weight, smoothing)
        everywhere, linear, here, extra = ctx.weights
        # log(1 + e), corrected for the rounding of 1 + e as in `graph_ops.log1p`, in two sums; and
        # the logit of a class is taken from the linear part, where it leaves no rounding error.
        entropy = torch.log(y).sum(dim=1) + (e - (y - 1)).sum(dim=1)
        rest = _times(positive.sum(dim=1), everywhere) - _times(x, here)
        value = _times(entropy, everywhere) + rest
        if linear:
            value = value - linear * logits.sum(dim=1)
        return value + extra * softplus(-x) if extra else value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (negative, y, x, last, at_last), (gradient,) = ctx.saved_tensors, gradients
        everywhere, linear, here, extra = ctx.weights
        of_box = torch.zeros_like(gradient).scatter_add(0, last, gradient)[:, None]
        rows = torch.exp(negative) / y * _times(of_box, everywhere)
        if linear:
            rows = rows - linear * of_box
        at_class = _times(gradient, here)
        if extra:
            at_class = at_class + extra * gradient * sigmoid_of_exp(-x, torch.exp(minus_abs(x)))
        written = rows.flatten().scatter_add(0, at_last, -at_class)
        return written.reshape(rows.shape), None, None, None, None, None


def _weights(pos_weight: float, smoothing: float) -> tuple[float, float, float, float]:
    """Return the factors of s(x) and x in all classes, and of -x and s(-x) in the slot's."""
    other = smoothing / 2
    return (
        1 - other + pos_weight * other,
        pos_weight * other,
        1 - smoothing,
        ((1 - smoothing) * (pos_weight - 1)),
    )


def _times(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x * factor
