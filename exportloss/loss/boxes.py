"""Decoding of predicted boxes and their complete IoU with targets, for any finite logits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["ciou_of_logits"]

_EPS = 1e-7

# Logits below this count as this: a sigmoid stays a normal number, and its square underflows.
_LOWEST = -80.0


def ciou_of_logits(logits: Tensor, anchors: Tensor, *, centre: Tensor, side: Tensor) -> Tensor:
    """Compute the complete IoU of predicted boxes, decoded from `logits`, with targets.

    Zheng et al., arXiv 1911.08287, section 4: IoU - rho^2 / c^2 - alpha v, alpha detached. Boxes
    decode as xy = 2 sigmoid(t) - 0.5 and wh = (2 sigmoid(t))^2 * anchor, in cells.

    The angle of the predicted box is computed from its logits instead of its sides, so that a box
    whose sides underflow to 0 has a finite angle and gradient; elsewhere the two are equal.

    The dimension of x and y comes first, so that a graph needs one operator for both. All arguments
    broadcast. Targets get no gradient.

    Args:
        logits: (4, ...) raw x, y, w, h.
        anchors: (2, ...) width and height in cells, > 0.
        centre: (2, ...) targets' x and y relative to the cell, in cells.
        side: (2, ...) targets' width and height in cells, > 0.

    Returns:
        (...), in (-2, 1].
    """
    if torch.compiler.is_exporting():  # gradient builders know elementary operators only
        return _overlap(logits, anchors, centre, side).ciou
    apply: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _Ciou.apply
    return apply(logits, anchors, centre, side)


class _Overlap(NamedTuple):
    """A complete IoU, and what its derivative takes from it; x and y or both first, see `_overlap`.

    Attributes:
        ciou: (...) result.
        p: (4, ...) sigmoid of the logits.
        not_p: (4, ...) sigmoid of the negated logits.
        offset: (2, ...) from the predicted to the target's centre.
        side: (2, ...) predicted sides.
        sticks_out: (2, 2, ...) how far the target sticks out, at its far and at its near edge.
        inner: (2, ...) sides of the intersection, >= 0.
        hull: (2, ...) sides of the smallest box around both.
        iou: (2, ...) IoU, twice.
        union: (2, ...) area of the union, twice.
        ratio: (1, ...) squared distance over the squared diagonal of the hull.
        diagonal: (1, ...) the latter.
        shape: (2, ...) predicted sides, scaled.
        quarter: (1, ...) quarter of the angle between the diagonals of both boxes.
        alpha: (2, ...) weight of that angle, twice.
    """

    ciou: Tensor
    p: Tensor
    not_p: Tensor
    offset: Tensor
    side: Tensor
    sticks_out: Tensor
    inner: Tensor
    hull: Tensor
    iou: Tensor
    union: Tensor
    ratio: Tensor
    diagonal: Tensor
    shape: Tensor
    quarter: Tensor
    alpha: Tensor


def _overlap(logits: Tensor, anchors: Tensor, centre: Tensor, side: Tensor) -> _Overlap:
    logits = torch.clamp(logits, min=_LOWEST)
    positive = torch.relu(logits)
    negative = logits - positive
    y = 1 + torch.exp(negative - positive)
    p, not_p = torch.exp(negative) / y, torch.exp(-positive) / y
    p_xy, p_wh = torch.split(p, 2)
    offset = (centre + 0.5) - 2 * p_xy
    side1 = p_wh * p_wh * (4 * anchors)

    # The side of the intersection is the target's without what sticks out of the predicted box, and
    # that of the hull is the predicted one with it.
    longer = (side - side1) / 2
    sticks_out = torch.stack((longer + offset, longer - offset))
    outside = torch.relu(sticks_out).sum(dim=0)
    inner = torch.relu(side - outside)
    hull = side1 + outside
    inter = inner * _other(inner)
    union = side1 * _other(side1) + (side * _other(side) + _EPS) - inter
    iou = inter / union
    diagonal = (hull * hull).sum(dim=0, keepdim=True) + _EPS
    ratio = (offset * offset).sum(dim=0, keepdim=True) / diagonal

    # Any multiple of the predicted sides has their angle; this one is never 0 in both.
    scaled = p_wh / p_wh.sum(dim=0, keepdim=True)
    shape = scaled * scaled * anchors
    across = (shape * (_other(side) * _minus_plus(side))).sum(dim=0, keepdim=True)
    along = (shape * side).sum(dim=0, keepdim=True)
    quarter = _quarter_of_angle(across, along)
    v = (64 / math.pi**2) * (quarter * quarter)
    alpha = (v / (v - iou + (1 + _EPS))).detach()
    ciou = (iou - (ratio + v * alpha))[0]
    return _Overlap(
        ciou, p, not_p, offset, side1, sticks_out, inner, hull, iou, union, ratio, diagonal, shape,
        quarter, alpha
    )  # fmt: skip


class _Ciou(torch.autograd.Function):
    """`_overlap` with its derivative written out, not that of each of its operators."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, anchors: Tensor, centre: Tensor, side: Tensor) -> Tensor:
        ciou, *rest = _overlap(logits, anchors, centre, side)
        ctx.save_for_backward(*rest)
        return ciou

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        o, (gradient,) = _Overlap(gradients[0], *ctx.saved_tensors), gradients
        # d is for the derivative of the IoU by ...; of equal edges each gets half, as in torch.
        of_hull = o.hull * (o.ratio / o.diagonal)  # half of -d(rho^2 / c^2) by the hull's side
        of_inner = _other(o.inner) * torch.sign(o.inner) * ((1 + o.iou) / o.union)
        of_inner = of_inner - 2 * of_hull
        far, near = torch.sign(o.sticks_out).unbind()
        p_xy, _ = torch.split(o.p, 2)
        of_xy = p_xy * (of_inner * (far - near) + 4 * (o.offset / o.diagonal))
        area = 2 * (_other(o.side) * (o.iou / o.union))
        of_side = of_inner * ((far + near) / 2 + 1) + 4 * of_hull - area
        squares = (o.shape * o.shape).sum(dim=0, keepdim=True)
        by_shape = (-64 / math.pi**2) * _minus_plus(o.shape) * (o.shape * _other(o.shape))
        of_wh = o.side * of_side + by_shape * (o.quarter * o.alpha / squares)
        return gradient * o.not_p * torch.cat((of_xy, of_wh)), None, None, None


def _other(xy: Tensor) -> Tensor:
    """Return y and x."""
    return xy.flip(0)


def _minus_plus(like: Tensor) -> Tensor:
    """Return -1 for x and 1 for y, to broadcast with (2, ...)."""
    signs = torch.arange(-1, 2, 2, dtype=like.dtype, device=like.device)
    return signs.reshape(2, *(1 for _ in like.shape[1:]))


def _quarter_of_angle(across: Tensor, along: Tensor) -> Tensor:
    """Compute atan(across / along) / 4 to float32 precision, for along > 0.

    Written out because ONNX Runtime has neither a gradient nor a CUDA kernel for Atan. The tangent
    of a quarter of the angle is at most tan(pi / 8); the polynomial for these is that of Cephes'
    atanf (Moshier, 1992).
    """
    half = across / (along + torch.sqrt(across * across + along * along))
    t = half / (1 + torch.sqrt(1 + half * half))
    z = t * t
    poly = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z
    return (poly - 3.33329491539e-1) * (z * t) + t
