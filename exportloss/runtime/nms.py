"""From a detector's raw rows to the boxes worth showing."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exportloss.errors import ConfigError

__all__ = ["non_max_suppression"]

FloatArray = npt.NDArray[np.float32]

# Bounds the work on an untrained model, which finds an object everywhere.
_MAX_CANDIDATES = 30_000


def non_max_suppression(
    predictions: FloatArray,
    *,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    max_det: int = 300,
    agnostic: bool = False,
    multi_label: bool = False,
) -> list[FloatArray]:
    """Keep the most confident of boxes that overlap, in YOLOv5's sense.

    Confidence is objectness times class probability. Greedy: a box is dropped when its IoU with a
    more confident kept one exceeds `iou_thres`. Of equal confidences the earlier row wins. Rows
    with a NaN or infinity are no detections; of one picture the 30 000 most confident are looked
    at.

    Args:
        predictions: (B, N, 5 + nc) rows x, y, width, height in pixels (x, y the centre),
            objectness and nc class probabilities in [0, 1].
        conf_thres: objectness and confidence must exceed this, in [0, 1].
        iou_thres: in [0, 1].
        max_det: most boxes kept a picture, >= 1.
        agnostic: boxes of different classes suppress each other too.
        multi_label: a row may yield a box for every class above the threshold, instead of the
            best class only.

    Returns:
        One (n, 6) array a picture: x1, y1, x2, y2 in pixels, confidence, class; the most
        confident first, n <= max_det.

    Raises:
        ConfigError: a threshold is out of range, or `predictions` has another shape.
    """
    if predictions.ndim != 3 or predictions.shape[2] < 6:
        raise ConfigError(
            f"predictions have shape {predictions.shape}; expected (batch, rows, 5 + classes)"
        )
    for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}; expected a number in [0, 1]")
    if max_det < 1:
        raise ConfigError(f"max_det is {max_det}; expected at least 1")
    kept = []
    for rows in predictions:
        found = _candidates(rows, conf_thres, multi_label)
        found = found[np.argsort(-found[:, 4], kind="stable")[:_MAX_CANDIDATES]]
        kept.append(found[_suppress(found, iou_thres, max_det, agnostic)])
    return kept


def _candidates(rows: FloatArray, conf_thres: float, multi_label: bool) -> FloatArray:
    """Return (n, 6) x1, y1, x2, y2, confidence, class of all that exceed the threshold."""
    rows = rows[(rows[:, 4] > conf_thres) & np.isfinite(rows).all(axis=1)]
    confidence = rows[:, 4:5] * rows[:, 5:]  # (n, nc)
    if multi_label:
        index, label = np.nonzero(confidence > conf_thres)
    else:
        label = confidence.argmax(axis=1)
        index = np.flatnonzero(confidence[np.arange(len(rows)), label] > conf_thres)
        label = label[index]
    centre, half = rows[index, :2], rows[index, 2:4] / 2
    columns = (centre - half, centre + half, confidence[index, label, None], label[:, None])
    return np.concatenate(columns, axis=1, dtype=np.float32)


def _suppress(
    found: FloatArray, iou_thres: float, max_det: int, agnostic: bool
) -> npt.NDArray[np.intp]:
    """Return the indices to keep of `found` (n, 6), which is sorted by confidence."""
    top_left, bottom_right, label = found[:, :2], found[:, 2:4], found[:, 5]
    area = (bottom_right - top_left).prod(axis=1)
    left = np.arange(len(found))
    kept: list[np.intp] = []
    while left.size and len(kept) < max_det:
        best, left = left[0], left[1:]
        kept.append(best)
        overlap = np.minimum(bottom_right[best], bottom_right[left]) - np.maximum(
            top_left[best], top_left[left]
        )
        inter = overlap.clip(min=0).prod(axis=1)
        # Multiplied out, so that two boxes without area divide nothing by nothing.
        suppressed = inter > iou_thres * (area[best] + area[left] - inter)
        if not agnostic:
            suppressed &= label[left] == label[best]
        left = left[~suppressed]
    return np.array(kept, dtype=np.intp)
