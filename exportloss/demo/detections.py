"""Detections of a detector in training, and their number that is right."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from exportloss.runtime.data.loader import Batch
from exportloss.runtime.evaluation.confusion import ConfusionMatrix
from exportloss.runtime.evaluation.nms import check_predictions, non_max_suppression
from exportloss.runtime.evaluation.validate import true_boxes
from exportloss.runtime.sessions.session import TrainSession

__all__ = ["Detected", "detect", "find"]

BoxArray = npt.NDArray[np.float32]

_MIN_IOU = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detected:
    """Counts over images; a box is right if an object has its class and an IoU over 0.5 with it.

    Attributes:
        objects: Number of true objects.
        right: Number of objects that were found.
        wrong: Number of boxes without an object, or with one that another box has found.
    """

    objects: int
    right: int
    wrong: int


def detect(
    session: TrainSession, batches: Iterable[Batch], *, conf_thres: float = 0.25
) -> list[BoxArray]:
    """Return one (n, 6) array per image: x1, y1, x2, y2 in pixels, confidence, class."""
    return [
        boxes
        for batch in batches
        for boxes in non_max_suppression(_predict(session, batch), conf_thres=conf_thres)[
            : batch.count
        ]
    ]


def find(detections: Sequence[BoxArray], batches: Iterable[Batch], *, num_classes: int) -> Detected:
    """Compare detections with the targets of the same images, and count them."""
    truths = [truth for batch in batches for truth in true_boxes(batch)]
    confusion = ConfusionMatrix(num_classes, conf_thres=0, iou_thres=_MIN_IOU)
    for boxes, truth in zip(detections, truths, strict=True):
        confusion.add(boxes, truth[:, (5, 0, 1, 2, 3)])
    right = int(confusion.counts.trace())
    return Detected(
        objects=sum(map(len, truths)), right=right, wrong=sum(map(len, detections)) - right
    )


def _predict(session: TrainSession, batch: Batch) -> BoxArray:
    predictions = session.evaluate(batch.images, batch.targets).predictions
    check_predictions(predictions[: batch.count])
    return predictions
