"""What a detector in training finds in images, and how much of it is right."""

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

Boxes = npt.NDArray[np.float32]

_MIN_IOU = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detected:
    """Counts over images: a box is right with the class of an object and an IoU over 0.5 with it.

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
    """Return (n, 6) x1, y1, x2, y2 in pixels, confidence, class for each real image."""
    return [
        boxes
        for batch in batches
        for boxes in non_max_suppression(_predict(session, batch), conf_thres=conf_thres)[
            : batch.count
        ]
    ]


def find(detections: Sequence[Boxes], batches: Iterable[Batch], *, num_classes: int) -> Detected:
    """Count what was found of the targets of the same images."""
    truths = [truth for batch in batches for truth in true_boxes(batch)]
    confusion = ConfusionMatrix(num_classes, conf_thres=0, iou_thres=_MIN_IOU)
    for boxes, truth in zip(detections, truths, strict=True):
        confusion.add(boxes, truth[:, (5, 0, 1, 2, 3)])
    right = int(confusion.counts.trace())
    return Detected(
        objects=sum(map(len, truths)), right=right, wrong=sum(map(len, detections)) - right
    )


def _predict(session: TrainSession, batch: Batch) -> Boxes:
    predictions = session.evaluate(batch.images, batch.targets).predictions
    check_predictions(predictions[: batch.count])
    return predictions
