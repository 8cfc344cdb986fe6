"""Decoding of predicted boxes and their complete IoU with targets, finite everywhere."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from exportloss.graph_ops import log1p

__all__ = ["ciou_of_logits"]

_EPS = 1e-7


def ciou_of_logits(logits: Tensor, anchors: Tensor, targets: Tensor) -> Tensor:
    """Complete IoU of the boxes that YOLOv5 decodes from `logits` with `targets`.

    Zheng et al., arXiv 1911.08287, section 4: IoU - rho^2 / c^2 - alpha v, alpha detached. Boxes
    decode as xy = 2 sigmoid(t) - 0.5 and wh = (2 sigmoid(t))^2 * anchor, in cells.

    The angle of the predicted box is taken from its logits instead of its sides, so that a box
    whose sides underflow to 0 keeps a finite angle and gradient; elsewhere the two are equal.

    Args:
        logits: (..., 4) raw x, y, w, h.
        anchors: broadcastable to (..., 2), width and height in cells, > 0.
        targets: broadcastable to (..., 4), x and y relative to the cell, w and h > 0, in cells.

    Returns:
        (...), in (-2, 1].
    """
    s = torch.sigmoid(logits)
    x1, y1 = 2 * s[..., 0] - 0.5, 2 * s[..., 1] - 0.5
    w1 = (2 * s[..., 2]) ** 2 * anchors[..., 0]
    h1 = (2 * s[..., 3]) ** 2 * anchors[..., 1]
    x2, y2, w2, h2 = (targets[..., i] for i in range(4))

    left1, right1, top1, bottom1 = x1 - w1 / 2, x1 + w1 / 2, y1 - h1 / 2, y1 + h1 / 2
    left2, right2, top2, bottom2 = x2 - w2 / 2, x2 + w2 / 2, y2 - h2 / 2, y2 + h2 / 2
    overlap_w = torch.minimum(right1, right2) - torch.maximum(left1, left2)
    overlap_h = torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)
    inter = torch.relu(overlap_w) * torch.relu(overlap_h)
    iou = inter / (w1 * h1 + w2 * h2 - inter + _EPS)

    hull_w = torch.maximum(right1, right2) - torch.minimum(left1, left2)
    hull_h = torch.maximum(bottom1, bottom2) - torch.minimum(top1, top2)
    diagonal = hull_w**2 + hull_h**2 + _EPS
    distance = (x2 - x1) ** 2 + (y2 - y1) ** 2

    log_ratio1 = 2 * (_log_sigmoid(logits[..., 2]) - _log_sigmoid(logits[..., 3]))
    log_ratio1 = log_ratio1 + torch.log(anchors[..., 0] / anchors[..., 1])
    angle1, angle2 = atan_of_exp(log_ratio1), atan_of_exp(torch.log(w2 / h2))
    v = (4 / math.pi**2) * (angle2 - angle1) ** 2
    alpha = (v / (v - iou + (1 + _EPS))).detach()
    return iou - (distance / diagonal + v * alpha)


def atan_of_exp(x: Tensor) -> Tensor:
    """atan(exp(x)) to float32 rounding; value in (0, pi / 2), gradient in (0, 1 / 2].

    Written out because ONNX Runtime has no gradient of Atan and no CUDA kernel for it. With
    e = exp(-|x|) <= 1 no division is by a small number; the angle beyond tan(pi / 8) is reduced
    by a quarter turn, and the polynomial is the one that Cephes' atanf uses (Moshier, 1992).
    """
    positive = torch.relu(x)
    e = torch.exp(x - 2 * positive)  # exp(-|x|), in (0, 1]
    is_far = e > math.tan(math.pi / 8)
    t = torch.where(is_far, (e - 1) / (e + 1), e)
    z = t * t
    poly = ((8.05374449538e-2 * z - 1.38776856032e-1) * z + 1.99777106478e-1) * z
    angle = (poly - 3.33329491539e-1) * z * t + t
    angle = torch.where(is_far, angle + math.pi / 4, angle)  # atan(exp(-|x|))
    return torch.where(x > 0, math.pi / 2 - angle, angle)


def _log_sigmoid(x: Tensor) -> Tensor:
    positive = torch.relu(x)
    return x - positive - log1p(torch.exp(x - 2 * positive))
