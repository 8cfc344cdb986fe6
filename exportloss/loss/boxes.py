"""Decoding of predicted boxes and their complete IoU with targets, for any finite logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from exportloss.loss.graph_ops import log1p, minus_abs, sigmoid, sigmoid_of_exp

__all__ = ["ciou_of_logits"]

_EPS = 1e-7


def ciou_of_logits(logits: Tensor, anchors: Tensor, *, centre: Tensor, side: Tensor) -> Tensor:
    """Compute the complete IoU of predicted boxes, decoded from `logits`, with targets.

    Zheng et al., arXiv 1911.08287, section 4: IoU - rho^2 / c^2 - alpha v, alpha detached. Boxes
    decode as xy = 2 sigmoid(t) - 0.5 and wh = (2 sigmoid(t))^2 * anchor, in cells.

    The angle of the predicted box is computed from its logits instead of its sides, so that a box
    whose sides underflow to 0 has a finite angle and gradient; elsewhere the two are equal.

    The dimension of x and y comes first, so that a graph needs one operator for both. All arguments
    broadcast.

    Args:
        logits: (4, ...) raw x, y, w, h.
        anchors: (2, ...) width and height in cells, > 0.
        centre: (2, ...) targets' x and y relative to the cell, in cells.
        side: (2, ...) targets' width and height in cells, > 0.

    Returns:
        (...), in (-2, 1].
    """
    logits_xy, logits_wh = torch.split(logits, 2)
    centre1, side1 = (
        2 * sigmoid(logits_xy) - 0.5,
        (2 * sigmoid(logits_wh)) ** 2 * anchors,
    )
    low1, high1 = centre1 - side1 / 2, centre1 + side1 / 2
    low2, high2 = centre - side / 2, centre + side / 2
    inter = _product(torch.relu(torch.minimum(high1, high2) - torch.maximum(low1, low2)))
    iou = inter / (_product(side1) + _product(side) - inter + _EPS)

    hull = torch.maximum(high1, high2) - torch.minimum(low1, low2)
    diagonal = (hull**2).sum(dim=0) + _EPS
    distance = ((centre - centre1) ** 2).sum(dim=0)

    log_ratio1 = 2 * _difference(_log_sigmoid(logits_wh)) + _difference(torch.log(anchors))
    angle1, angle2 = atan_of_exp(log_ratio1), atan_of_exp(_difference(torch.log(side)))
    v = (4 / math.pi**2) * (angle2 - angle1) ** 2
    alpha = (v / (v - iou + (1 + _EPS))).detach()
    return iou - (distance / diagonal + v * alpha)


def _product(sides: Tensor) -> Tensor:
    width, height = sides.unbind()
    return width * height


def _difference(logarithms: Tensor) -> Tensor:
    width, height = logarithms.unbind()
    return width - height


def atan_of_exp(x: Tensor) -> Tensor:
    """Compute atan(exp(x)) to float32 precision; value in (0, pi / 2), gradient in (0, 1 / 2].

    Written out because ONNX Runtime has neither a gradient nor a CUDA kernel for Atan. With
    e = exp(-|x|) <= 1 no divisor is small. An angle above pi / 8 is reduced by pi / 4; the
    polynomial is that of Cephes' atanf (Moshier, 1992).
    """
    if torch.compiler.is_exporting():
        return _angle_and_exp(x)[0]
    apply: Callable[[Tensor], Tensor] = _AtanOfExp.apply
    return apply(x)


def _angle_and_exp(x: Tensor) -> tuple[Tensor, Tensor]:
    positive = torch.relu(x)
    e = torch.exp(x - 2 * positive)  # exp(-|x|), in (0, 1]
    is_far = e > math.tan(math.pi / 8)
    t = torch.where(is_far, (e - 1) / (e + 1), e)
    z = t * t
    poly = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z
    angle = (poly - 3.33329491539e-1) * z * t + t
    angle = torch.where(is_far, angle + math.pi / 4, angle)  # atan(exp(-|x|))
    return torch.where(x > 0, math.pi / 2 - angle, angle), e


class _AtanOfExp(torch.autograd.Function):
    """`_angle_and_exp` with the derivative 1 / (exp(x) + exp(-x)), not that of each operator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        angle, e = _angle_and_exp(x)
        ctx.save_for_backward(e)
        return angle

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        e: Tensor
        (e,), (gradient,) = ctx.saved_tensors, gradients
        return gradient * (e / (1 + e * e))


def _log_sigmoid(x: Tensor) -> Tensor:
    if torch.compiler.is_exporting():
        return _written_out(x)
    apply: Callable[[Tensor], Tensor] = _LogSigmoid.apply
    return apply(x)


def _written_out(x: Tensor) -> Tensor:
    positive = torch.relu(x)
    return x - positive - log1p(torch.exp(x - 2 * positive))


class _LogSigmoid(torch.autograd.Function):
    """`_written_out` with the derivative sigmoid(-x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _written_out(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        return gradient * sigmoid_of_exp(-x, torch.exp(minus_abs(x)))
