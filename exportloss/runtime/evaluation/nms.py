"""Non-maximum suppression: from a detector's rows to boxes."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from exportloss.bounds import at_least
from exportloss.errors import ArtifactError, ConfigError

__all__ = [
    "check_classes",
    "check_predictions",
    "check_thresholds",
    "non_max_suppression",
    "suppress",
]

FloatArray = npt.NDArray[np.float32]
_Flags = npt.NDArray[np.bool_]

_BLOCK = 256  # candidates compared at a time
_FARTHEST = 2.0**24  # pixels; beyond every canvas, and the area of a box this large is finite
_LARGEST = float(np.finfo(np.float32).max)


def non_max_suppression(
    predictions: FloatArray,
    *,
    conf_thres: float = 0.25,
    iou_thres: float = 0.45,
    max_det: int = 300,
    agnostic: bool = False,
    multi_label: bool = False,
    classes: Collection[int] | None = None,
    max_candidates: int = 30_000,
) -> list[FloatArray]:
    """Keep the most confident of overlapping boxes, as YOLOv5 does.

    Confidence is objectness times class probability. The algorithm is greedy: a box is dropped if
    its IoU with a more confident kept box exceeds `iou_thres`. Among equal confidences the earlier
    row wins. Coordinates are clipped to 2^24 pixels from the origin. Rows with a NaN or infinity
    are no detections. The defaults are those of YOLOv5's `detect`; its `val` uses 0.001, 0.6 and,
    for more than one class, `multi_label`.

    Args:
        predictions: (B, N, 5 + nc) rows x, y, width, height in pixels (x, y the centre),
            objectness and nc class probabilities in [0, 1].
        conf_thres: Threshold that objectness and confidence must exceed, in [0, 1].
        iou_thres: IoU above which a less confident box is dropped, in [0, 1].
        max_det: Most boxes kept per image, >= 1.
        agnostic: True to let boxes of different classes suppress each other.
        multi_label: True to let a row yield a box for every class above the threshold, instead of
            the best class only.
        classes: Classes to keep, whole numbers in [0, nc); None for all.
        max_candidates: Most boxes considered per image, the most confident ones, >= 1; bounds the
            work for an untrained model, which finds an object everywhere.

    Returns:
        One (n, 6) array per image: x1, y1, x2, y2 in pixels, confidence, class; the most
        confident first, n <= max_det.

    Raises:
        ConfigError: a threshold, limit or class is out of range, or `predictions` has another
            shape.
    """
    if predictions.ndim != 3 or predictions.shape[2] < 6:
        raise ConfigError(
            f"predictions have shape {predictions.shape}; expected (batch, rows, 5 + classes)"
        )
    check_thresholds(conf_thres=conf_thres, iou_thres=iou_thres, max_det=max_det)
    check_classes(classes, predictions.shape[2] - 5)
    at_least(1, max_candidates=max_candidates)
    kept = []
    for rows in predictions:
        found = _candidates(rows, conf_thres, multi_label, classes, max_candidates)
        kept.append(suppress(found, iou_thres, max_det=max_det, agnostic=agnostic))
    return kept


def check_thresholds(*, conf_thres: float, iou_thres: float, max_det: int) -> None:
    """Check the thresholds of `non_max_suppression`, before anything is run.

    Raises:
        ConfigError: a value is out of range.
    """
    for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} is {value}; expected a number in [0, 1]")
    at_least(1, max_det=max_det)


def check_classes(classes: Collection[int] | None, num_classes: int) -> None:
    """Check that a detector has the classes of interest.

    Args:
        classes: As for `non_max_suppression`.
        num_classes: Number of classes of the detector, >= 1.

    Raises:
        ConfigError: a class is out of range.
    """
    for one in classes or ():
        if not 0 <= one < num_classes:
            raise ConfigError(
                f"classes has {one}; expected numbers in [0, {num_classes - 1}]: the detector has "
                f"{num_classes} {'class' if num_classes == 1 else 'classes'}"
            )


def check_predictions(predictions: FloatArray) -> None:
    """Check that a detector's rows are finite: NaN would otherwise read as "no detections".

    Args:
        predictions: (B, N, 5 + nc) rows as for `non_max_suppression`.

    Raises:
        ArtifactError: values are infinite or NaN, or confidences would be; the message counts them.
    """
    if bad := predictions.size - int(np.count_nonzero(np.isfinite(predictions))):
        raise ArtifactError(
            f"the detector gives {bad} of {predictions.size} numbers that are not finite (infinite "
            "or NaN); its weights are damaged, or too large for its precision: export it again, "
            "or train it again"
        )
    if predictions.size and predictions[..., 4:].max() > _LARGEST**0.5:
        confidence = predictions[..., 4].astype(np.float64) * predictions[..., 5:].max(axis=-1)
        if bad := int(np.count_nonzero(confidence > _LARGEST)):
            raise ArtifactError(
                f"the detector gives {bad} of {confidence.size} confidences that are not finite: "
                f"objectness and probabilities reach {predictions[..., 4:].max():.3g}, expected at "
                "most 1; its weights are damaged, or its outputs lack a sigmoid: export it again"
            )


def _candidates(
    rows: FloatArray,
    conf_thres: float,
    multi_label: bool,
    classes: Collection[int] | None,
    most: int,
) -> FloatArray:
    """Return (n, 6) boxes that exceed the threshold, the most confident first."""
    rows = rows[rows[:, 4] > conf_thres]  # few of many: only these are looked at whole
    rows = rows[np.isfinite(rows).all(axis=1)]
    confidence = rows[:, 4:5] * rows[:, 5:]  # (n, nc)
    exceeds = confidence > conf_thres
    if not multi_label:
        exceeds &= np.arange(confidence.shape[1]) == confidence.argmax(axis=1, keepdims=True)
    if classes is not None:
        exceeds &= np.isin(np.arange(confidence.shape[1]), list(classes))
    flat = np.flatnonzero(exceeds)
    order = _most_confident(confidence.ravel()[flat], most)
    index, label = np.divmod(flat[order], confidence.shape[1])
    centre, half = rows[index, :2], rows[index, 2:4] / 2
    with np.errstate(over="ignore"):  # sides near the largest float overflow, and are clipped below
        corners = np.concatenate((centre - half, centre + half), axis=1)
    corners = corners.clip(-_FARTHEST, _FARTHEST)
    columns = (corners, confidence[index, label, None], label[:, None])
    return np.concatenate(columns, axis=1, dtype=np.float32)


def _most_confident(confidence: FloatArray, most: int) -> npt.NDArray[np.intp]:
    """Return the indices of the `most` highest, falling; among equals the earlier first."""
    chosen = np.arange(len(confidence))
    if len(confidence) > most:
        least = np.partition(confidence, -most)[-most]
        above = np.flatnonzero(confidence > least)
        equal = np.flatnonzero(confidence == least)[: most - len(above)]
        chosen = np.sort(np.concatenate((above, equal)))
    return chosen[np.argsort(-confidence[chosen], kind="stable")]


def suppress(
    found: FloatArray, iou_thres: float, *, max_det: int = 300, agnostic: bool = False
) -> FloatArray:
    """Return the boxes to keep of `found`.

    The boxes are compared block by block, so that the work ends once `max_det` boxes are kept.

    Args:
        found: (n, 6) x1, y1, x2, y2, confidence, class, the most confident first.
        iou_thres: As for `non_max_suppression`.
        max_det: As for `non_max_suppression`.
        agnostic: As for `non_max_suppression`.
    """
    kept = np.zeros(0, np.intp)
    for start in range(0, len(found), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(found)))
        block = block[~_overlap(found[block], found[kept], iou_thres, agnostic).any(axis=1)]
        alike = _overlap(found[block], found[block], iou_thres, agnostic)
        alive = np.ones(len(block), np.bool_)
        for index in range(len(block)):
            if alive[index]:
                alive[index + 1 :] &= ~alike[index, index + 1 :]
        kept = np.concatenate((kept, block[alive]))
        if len(kept) >= max_det:
            break
    return found[kept[:max_det]]


def _overlap(some: FloatArray, others: FloatArray, iou_thres: float, agnostic: bool) -> _Flags:
    """Return (n, m) flags of the pairs that overlap too much for both boxes to stay."""
    sides = np.minimum(some[:, None, 2:4], others[:, 2:4])  # (n, m, 2)
    sides -= np.maximum(some[:, None, :2], others[:, :2])
    inter = sides.clip(min=0).prod(axis=2)
    area, other_area = ((boxes[:, 2:4] - boxes[:, :2]).prod(axis=1) for boxes in (some, others))
    # Multiplied out, so that two boxes without area do not divide 0 by 0.
    alike: _Flags = inter > iou_thres * (area[:, None] + other_area - inter)
    return alike if agnostic else alike & (some[:, None, 5] == others[:, 5])
