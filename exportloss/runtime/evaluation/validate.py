"""What a detector finds in labelled images, and what that is worth."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable
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
    """What `validate` returns.

    Attributes:
        metrics: precision, recall and average precision.
        confusion: at confidence 0.25 and IoU 0.45, as YOLOv5 draws it.
        items: mean terms of the loss over the batches; None where it is not known.
        inference_ms: milliseconds an image in `predict`.
        nms_ms: milliseconds an image in non-maximum suppression.
    """

    metrics: Metrics
    confusion: ConfusionMatrix
    items: LossTerms | None
    inference_ms: float
    nms_ms: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class BatchDetections:
    """What was found in the real images of a batch.

    Attributes:
        number: of the batch, from 0.
        batch: it.
        on_canvas: (n, 6) x1, y1, x2, y2, confidence, class an image, in pixels of the batch.
        on_image: the same in pixels of the image file, clipped to it.
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
    """Run a detector over labelled images and judge what it finds, in pixels of the files.

    Like YOLOv5 it clips detections and labels to the image.

    Args:
        predict: the detector.
        batches: of the data set, without augmentation, such as `Batches`.
        num_classes: of the data set.
        conf_thres: detections must exceed this; low, since the metrics weigh all of them.
        iou_thres: of non-maximum suppression.
        max_det: most detections an image.
        tell: told of the detections of each batch.

    Raises:
        ArtifactError: the detector gives numbers that are not finite.
        ConfigError: a threshold is out of range, or the detector has another number of classes.
        DataError: an image cannot be decoded.
    """
    metrics = MetricsAccumulator(num_classes, max_det=max_det)
    confusion = ConfusionMatrix(num_classes)
    items: list[tuple[float, ...]] = []
    inference = suppression = 0.0
    for number, batch in enumerate(batches):
        started = time.perf_counter()
        output = predict(batch)
        inference += time.perf_counter() - started
        if isinstance(output, Evaluation):
            items.append(dataclasses.astuple(output.items))
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
        items=LossTerms(*np.mean(items, axis=0).tolist()) if items else None,
        inference_ms=inference * each,
        nms_ms=suppression * each,
    )


def true_boxes(batch: Batch, *, repeated: bool = False) -> list[Boxes]:
    """Return (n, 6) x1, y1, x2, y2 in pixels of the batch, 1, class for each real image.

    Args:
        batch: of a loader.
        repeated: for the images that only fill the batch as well.
    """
    height, width = batch.images.shape[2:]
    scale = np.array((width, height, width, height), np.float32)
    boxes = []
    for index in range(len(batch.images) if repeated else batch.count):
        rows = batch.targets[batch.targets[:, 0] == index]
        columns = (to_corners(rows[:, 2:] * scale), np.ones((len(rows), 1)), rows[:, 1:2])
        boxes.append(np.concatenate(columns, axis=1, dtype=np.float32))
    return boxes
