"""What a detector in training finds in pictures, and how much of it is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from exportloss.runtime.loader import Batch
from exportloss.runtime.nms import non_max_suppression
from exportloss.runtime.session import TrainSession

__all__ = ["Detected", "detect", "find", "guess"]

Boxes = npt.NDArray[np.float32]

_MIN_IOU = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detected:
    """Counts over pictures: a box is right with the class of an object and an IoU of 0.5 with it.

    Attributes:
        objects: true objects.
        right: of them, those found.
        wrong: boxes that are none, or a second one of the same object.
    """

    objects: int
    right: int
    wrong: int


def detect(
    session: TrainSession, batches: Iterable[Batch], *, conf_thres: float = 0.25
) -> list[Boxes]:
    """Return (n, 6) x1, y1, x2, y2 in pixels, confidence, class for each real picture."""
    return [
        boxes
        for batch in batches
        for boxes in non_max_suppression(_predict(session, batch), conf_thres=conf_thres)[
            : batch.count
        ]
    ]


def guess(session: TrainSession, batches: Iterable[Batch]) -> list[Boxes]:
    """Return the surest boxes, apart from each other, of a detector that is sure of nothing."""
    return [
        boxes
        for batch in batches
        for boxes in non_max_suppression(
            _predict(session, batch), conf_thres=0, iou_thres=0.05, max_det=3, agnostic=True
        )[: batch.count]
    ]


def find(detections: Sequence[Boxes], batches: Iterable[Batch]) -> Detected:
    """Count what was found of the targets of the same pictures."""
    truths = [truth for batch in batches for truth in true_boxes(batch)]
    right = sum(_matches(boxes, truth) for boxes, truth in zip(detections, truths, strict=True))
    return Detected(
        objects=sum(map(len, truths)), right=right, wrong=sum(map(len, detections)) - right
    )


def true_boxes(batch: Batch) -> list[Boxes]:
    """Return (n, 6) x1, y1, x2, y2 in pixels, 1, class for each real picture."""
    height, width = batch.images.shape[2:]
    scale = np.array((width, height), np.float32)
    boxes = []
    for index in range(batch.count):
        rows = batch.targets[batch.targets[:, 0] == index]
        centre, half = rows[:, 2:4] * scale, rows[:, 4:] * scale / 2
        ones = np.ones((len(rows), 1), np.float32)
        boxes.append(np.concatenate((centre - half, centre + half, ones, rows[:, 1:2]), axis=1))
    return boxes


def _predict(session: TrainSession, batch: Batch) -> Boxes:
    return session.evaluate(batch.images, batch.targets).predictions


def _matches(boxes: Boxes, truth: Boxes) -> int:
    """Give every box, the surest first, the free object of its class that it overlaps most."""
    free = list(truth)
    for box in boxes:
        overlaps = [_iou(box, other) if box[5] == other[5] else 0.0 for other in free]
        if overlaps and max(overlaps) >= _MIN_IOU:
            del free[int(np.argmax(overlaps))]
    return len(truth) - len(free)


def _iou(box: Boxes, other: Boxes) -> float:
    sides = np.minimum(box[2:4], other[2:4]) - np.maximum(box[:2], other[:2])
    inter = float(sides.clip(min=0).prod())
    areas = float((box[2:4] - box[:2]).prod() + (other[2:4] - other[:2]).prod())
    return inter / (areas - inter) if inter else 0.0
