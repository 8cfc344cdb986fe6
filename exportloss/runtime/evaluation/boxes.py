"""Boxes as corners or as centre and size, and their overlap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["box_iou", "to_centres", "to_corners"]

Floats = npt.NDArray[np.floating]


def to_corners(boxes: Floats) -> Floats:
    """Convert (n, 4) centre x, centre y, width, height into x1, y1, x2, y2."""
    centre, half = boxes[:, :2], boxes[:, 2:4] / 2
    return np.concatenate((centre - half, centre + half), axis=1)


def to_centres(boxes: Floats) -> Floats:
    """Convert (n, 4) x1, y1, x2, y2 into centre x, centre y, width, height."""
    return np.concatenate(
        ((boxes[:, :2] + boxes[:, 2:4]) / 2, boxes[:, 2:4] - boxes[:, :2]), axis=1
    )


def box_iou(boxes: Floats, others: Floats) -> npt.NDArray[np.float64]:
    """Return the intersection over union of every pair; 0 where the boxes do not overlap.

    Args:
        boxes: (n, 4) x1, y1, x2, y2 in pixels.
        others: (m, 4) x1, y1, x2, y2 in the same pixels.

    Returns:
        (n, m) in [0, 1].
    """
    boxes, others = boxes.astype(np.float64), others.astype(np.float64)
    sides = np.minimum(boxes[:, None, 2:], others[:, 2:])  # (n, m, 2)
    sides -= np.maximum(boxes[:, None, :2], others[:, :2])
    inter: npt.NDArray[np.float64] = sides.clip(min=0).prod(axis=2)
    area, other_area = (
        (corners[:, 2:] - corners[:, :2]).prod(axis=1) for corners in (boxes, others)
    )
    union = area[:, None] + other_area - inter
    iou = np.zeros_like(inter)
    np.divide(inter, union, out=iou, where=inter > 0)
    return iou
