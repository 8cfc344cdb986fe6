"""Validation: a detector run over labelled images, and its metrics."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from exportloss.errors import ConfigError
from exportloss.runtime.evaluation.boxes import to_corners
from exportloss.runtime.evaluation.confusion import ConfusionMatrix
from exportloss.runtime.evaluation.metrics import Metrics, MetricsAccumulator
from exportloss.runtime.evaluation.nms import check_predictions, non_max_suppression
from exportloss.runtime.sessions.session import Evaluation, LossTerms

if TYPE_CHECKING:  # keeps the loader out of `import exportloss.runtime`
    from exportloss.runtime.data.loader import Batch

__all__ = ["BatchDetections", "Predict", "Validation", "true_boxes", "validate"]

Boxes = npt.NDArray[np.float32]

# Decoded rows (B, N, 5 + nc), or an evaluation that has the loss as well.
Predict = Callable[["Batch"], Evaluation | Boxes]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """Result of `validate`.

    Attributes:
        metrics: Precision, recall and average precision.
        confusion: Confusion matrix at confidence 0.25 and IoU 0.45, as in YOLOv5.
        items: Mean loss terms over the batches; None if `predict` gives no loss.
        inference_ms: Milliseconds per image in `predict`.
        nms_ms: Milliseconds per image in non-maximum suppression.
    """

    metrics: Metrics
    confusion: ConfusionMatrix
    items: LossTerms | None
    inference_ms: float
    nms_ms: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BatchDetections:
    """Detections in the real images of a batch.

    Attributes:
        number: Number of the batch, from 0.
        batch: Batch of the images.
        on_canvas: One (n, 6) array per image: x1, y1, x2, y2 (pixels of the batch), confidence,
            class.
        on_image: Arrays as in `on_canvas`, in pixels of the image file and clipped to it.
    """

    number: int
    batch: Batch
    on_canvas: tuple[Boxes, ...]
    on_image: tuple[Boxes, ...]


def validate(
    predict: Predict,
    batches: Iterable[Batch],
    *,
    num_classes: int,
    conf_thres: float = 0.001,
    iou_thres: float = 0.6,
    max_det: int = 300,
    tell: Callable[[BatchDetections], None] | None = None,
) -> Validation:
    """Run a detector over labelled images and compute its metrics, in pixels of the image files.

    As in YOLOv5, detections and labels are clipped to the image.

    Args:
        predict: Function that runs the detector on a batch.
        batches: Batches of the data set without augmentation, such as `Batches`.
        num_classes: Number of classes of the data set, >= 1.
        conf_thres: Confidence that detections must exceed, in [0, 1]; low, since average precision
            takes all of them into account.
        iou_thres: IoU threshold of non-maximum suppression, in [0, 1].
        max_det: Most detections per image, >= 1.
        tell: Function called with the detections of each batch.

    Raises:
        ArtifactError: the detector gives numbers that are not finite.
        ConfigError: a threshold is out of range, or the detector has another number of classes.
        DataError: an image cannot be decoded.
    """
    metrics = MetricsAccumulator(num_classes, max_det=max_det)
    confusion = ConfusionMatrix(num_classes)
    items: list[LossTerms] = []
    inference = suppression = 0.0
    for number, batch in enumerate(batches):
        started = time.perf_counter()
        output = predict(batch)
        inference += time.perf_counter() - started
        if isinstance(output, Evaluation):
            items.append(output.items)
            output = output.predictions
        if output.shape[2] != 5 + num_classes:
            raise ConfigError(
                f"the detector has {output.shape[2] - 5} classes, the data set {num_classes}; "
                "use the data set that it was trained on"
            )
        check_predictions(output[: batch.count])
        started = time.perf_counter()
        on_canvas = non_max_suppression(
            output[: batch.count],
            conf_thres=conf_thres,
            iou_thres=iou_thres,
            max_det=max_det,
            multi_label=num_classes > 1,
        )
        suppression += time.perf_counter() - started
        placed = list(zip(on_canvas, true_boxes(batch), batch.letterboxes, strict=False))
        on_image = [letterbox.unmap_boxes(boxes) for boxes, _, letterbox in placed]
        for boxes, (_, truth, letterbox) in zip(on_image, placed, strict=True):
            labels = letterbox.unmap_boxes(truth)[:, (5, 0, 1, 2, 3)]
            metrics.add(boxes, labels)
            confusion.add(boxes, labels)
        if tell is not None:
            tell(
                BatchDetections(
                    number=number,
                    batch=batch,
                    on_canvas=tuple(on_canvas),
                    on_image=tuple(on_image),
                )
            )
    result = metrics.result()
    each = 1000 / max(result.images, 1)
    return Validation(
        metrics=result,
        confusion=confusion,
        items=_mean(items) if items else None,
        inference_ms=inference * each,
        nms_ms=suppression * each,
    )


def _mean(items: Sequence[LossTerms]) -> LossTerms:
    means = np.mean([list(terms.values()) for terms in items], axis=0)
    return LossTerms(*means.tolist(), names=tuple(items[0]))


def true_boxes(batch: Batch, *, repeated: bool = False) -> list[Boxes]:
    """Return per real image the (n, 6) true boxes: x1, y1, x2, y2 in pixels of the batch, 1, class.

    Args:
        batch: Batch of `Batches`.
        repeated: True to include the images that only fill the batch.
    """
    height, width = batch.images.shape[2:]
    scale = np.array((width, height, width, height), np.float32)
    boxes = []
    for index in range(len(batch.images) if repeated else batch.count):
        rows = batch.targets[batch.targets[:, 0] == index]
        columns = (to_corners(rows[:, 2:] * scale), np.ones((len(rows), 1)), rows[:, 1:2])
        boxes.append(np.concatenate(columns, axis=1, dtype=np.float32))
    return boxes
