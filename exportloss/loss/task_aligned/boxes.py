"""Boxes as corners, and their complete IoU, in operators that trace, export and differentiate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Boxes", "ciou"]

_EPS = 1e-7
_SMALLEST = 1e-30  # keeps quotients of sides finite; far below any side's square


@dataclasses.dataclass(frozen=True)
class Boxes:
    """Corners of boxes and what the complete IoU needs of each box alone; all of one shape.

    Attributes:
        x1, y1, x2, y2: Corners.
        area: Area, with `_EPS` added to the height.
        angle: 2 / pi * atan(width / height).
    """

    x1: Tensor
    y1: Tensor
    x2: Tensor
    y2: Tensor
    area: Tensor
    angle: Tensor

    @classmethod
    def of_corners(cls, x1: Tensor, y1: Tensor, x2: Tensor, y2: Tensor) -> Boxes:
        """Measure boxes, which may be empty or inside out."""
        width, height = x2 - x1, y2 - y1 + _EPS
        return cls(x1, y1, x2, y2, width * height, 2 / math.pi * atan_of_ratio(width, height))

    def map(self, function: Callable[[Tensor], Tensor]) -> Boxes:
        """Apply a function to every tensor."""
        return Boxes(*(function(getattr(self, f.name)) for f in dataclasses.fields(self)))


def ciou(one: Boxes, other: Boxes, *, inside_out: bool = False) -> Tensor:
    """Compute the complete IoU of boxes, arXiv 1911.08287: IoU - rho^2 / c^2 - alpha v.

    Args:
        one: Boxes.
        other: Boxes, broadcastable with the others.
        inside_out: Whether boxes may have negative sides, so that the union may be 0.
    """
    left, right = torch.maximum(one.x1, other.x1), torch.minimum(one.x2, other.x2)
    top, bottom = torch.maximum(one.y1, other.y1), torch.minimum(one.y2, other.y2)
    inter = (right - left).clamp(min=0.0) * (bottom - top).clamp(min=0.0)
    union = one.area + (other.area + _EPS) - inter
    if inside_out:
        union = torch.where(inter > 0, union, 1.0)
    iou = inter / union
    wide = torch.maximum(one.x2, other.x2) - torch.minimum(one.x1, other.x1)
    high = torch.maximum(one.y2, other.y2) - torch.minimum(one.y1, other.y1)
    x = (one.x1 + one.x2) / 2 - (other.x1 + other.x2) / 2
    y = (one.y1 + one.y2) / 2 - (other.y1 + other.y2) / 2
    distance = (x * x + y * y) / (wide * wide + (high * high + _EPS))
    difference = one.angle - other.angle
    v = difference * difference
    alpha = (v / (v - iou + (1 + _EPS))).detach()
    return iou - (distance + v * alpha)


def atan_of_ratio(x: Tensor, y: Tensor) -> Tensor:
    """Compute atan(x / y) to float32 precision, with finite gradients for all finite x and y.

    Written out because ONNX Runtime has neither a gradient nor a CUDA kernel for Atan. The smaller
    of |x| and |y| is divided by the larger, and an angle above pi / 8 is reduced by pi / 4; the
    polynomial is that of Cephes' atanf (Moshier, 1992). At (0, 0) the result is 0.
    """
    if torch.compiler.is_exporting():  # gradient builders know elementary operators only
        return _atan_of_ratio(x, y)
    apply: Callable[[Tensor, Tensor], Tensor] = _AtanOfRatio.apply
    return apply(x, y)


def _atan_of_ratio(x: Tensor, y: Tensor) -> Tensor:
    # Chosen by masks: the gradients of maxima are wrong where both are equal, as in a square box.
    a, b = torch.where(x < 0, -x, x), torch.where(y < 0, -y, y)
    is_wide = a > b
    ratio = torch.where(is_wide, b, a) / (torch.where(is_wide, a, b) + _SMALLEST)  # in [0, 1]
    is_far = ratio > math.tan(math.pi / 8)
    t = torch.where(is_far, (ratio - 1) / (ratio + 1), ratio)
    z = t * t
    poly = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z
    angle = (poly - 3.33329491539e-1) * z * t + t
    angle = torch.where(is_far, angle + math.pi / 4, angle)
    angle = torch.where(is_wide, math.pi / 2 - angle, angle)
    angle = torch.where(x < 0, -angle, angle)
    return torch.where(y < 0, -angle, angle)


class _AtanOfRatio(torch.autograd.Function):
    """`_atan_of_ratio` with the derivatives y / (x^2 + y^2) and -x / (x^2 + y^2)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        return _atan_of_ratio(x, y)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        (x, y), (gradient,) = ctx.saved_tensors, gradients
        scale = gradient / (x * x + y * y + _SMALLEST)
        return scale * y, -(scale * x)
