"""Matching of detections to objects, and the precision and recall of one class, as in COCO."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

__all__ = [
    "CONFIDENCES",
    "IOU_THRESHOLDS",
    "RECALLS",
    "ClassCurves",
    "class_curves",
    "match",
    "rank",
    "smooth",
]

_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]

IOU_THRESHOLDS: _Floats = np.linspace(0.5, 0.95, 10)  # T = 10
RECALLS: _Floats = np.linspace(0, 1, 101)
CONFIDENCES: _Floats = np.linspace(0, 1, 1000)
_SMOOTHING = 0.1  # width of the window for the best F1, as confidence


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassCurves:
    """Curves of one class.

    Attributes:
        precision: (1000,) precision of the detections above each of `CONFIDENCES`, at IoU 0.5.
        recall: (1000,) recall of the same detections.
        interpolated: (T, 101) best precision at each of `RECALLS` or beyond, per IoU threshold.
    """

    precision: _Floats
    recall: _Floats
    interpolated: _Floats


def class_curves(confidence: _Floats, right: _Flags, objects: int) -> ClassCurves:
    """Compute the curves of one class.

    Args:
        confidence: (D,) confidences of its detections, in the order of their images.
        right: (D, T) flags of the right detections per IoU threshold.
        objects: Number of true objects, >= 1.
    """
    order = np.argsort(-confidence, kind="stable")
    confidence = confidence[order]
    found = np.cumsum(right[order], axis=0)  # (D, T)
    recall = found / objects
    precision = found / np.arange(1, len(found) + 1)[:, None]
    return ClassCurves(
        precision=_above(confidence, precision[:, 0], at_none=1.0),
        recall=_above(confidence, recall[:, 0], at_none=0.0),
        interpolated=_interpolate(recall, precision),
    )


def rank(classes: _Floats) -> npt.NDArray[np.intp]:
    """Return for each detection the number of earlier ones of its class."""
    order = np.argsort(classes, kind="stable")
    _, start, counts = np.unique(classes[order], return_index=True, return_counts=True)
    ranks = np.empty(len(classes), np.intp)
    ranks[order] = np.arange(len(classes)) - np.repeat(start, counts)
    return ranks


def match(iou: _Floats) -> _Flags:
    """Return (D, T) flags of the detections that are right at each IoU threshold.

    Args:
        iou: (D, G) IoU of detections, the most confident first, and true objects.
    """
    detections, objects = iou.shape
    right = np.zeros((detections, len(IOU_THRESHOLDS)), np.bool_)
    free = np.ones((len(IOU_THRESHOLDS), objects), np.bool_)
    thresholds = np.arange(len(IOU_THRESHOLDS))
    for index in np.flatnonzero((iou >= IOU_THRESHOLDS[0]).any(axis=1)):
        fits = free & (iou[index] >= IOU_THRESHOLDS[:, None])  # (T, G)
        overlap = np.where(fits, iou[index], -1.0)
        best = objects - 1 - overlap[:, ::-1].argmax(axis=1)  # (T,) the last among equals
        hit = fits[thresholds, best]
        free[thresholds[hit], best[hit]] = False
        right[index] = hit
    return right


def _interpolate(recall: _Floats, precision: _Floats) -> _Floats:
    """Return (T, 101) best precisions at each recall or beyond."""
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    curves = np.zeros((len(IOU_THRESHOLDS), len(RECALLS)))
    for curve, reached, best in zip(curves, recall.T, envelope.T, strict=True):
        first = np.searchsorted(reached, RECALLS)
        inside = first < len(reached)
        curve[inside] = best[first[inside]]
    return curves


def _above(confidence: _Floats, values: _Floats, *, at_none: float) -> _Floats:
    """Return (1000,) values of the detections above each threshold, interpolated linearly.

    Args:
        confidence: (D,) confidences, falling.
        values: (D,) value of the detections down to each confidence.
        at_none: Value above the highest confidence.
    """
    if not len(confidence):
        return np.zeros(len(CONFIDENCES))
    return np.interp(-CONFIDENCES, -confidence, values, left=at_none)


def smooth(values: _Floats) -> _Floats:
    """Return the mean over a window around each value; the end values are repeated."""
    half = round(len(values) * _SMOOTHING / 2)
    window = np.full(2 * half + 1, 1 / (2 * half + 1))
    return np.convolve(np.pad(values, half, mode="edge"), window, mode="valid")
