"""Precision, recall and average precision of detections, with COCO's numbers.

Matching and average precision are those of pycocotools' `COCOeval` (Lin et al., "Microsoft COCO",
arXiv 1405.0312, and the evaluation's description on cocodataset.org) over all areas, without crowd
regions. As in YOLOv5, precision and recall are taken at IoU 0.5 and at the one confidence where the
mean F1 of the classes is best.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from exportloss.bounds import at_least
from exportloss.errors import ConfigError
from exportloss.runtime.evaluation.boxes import box_iou
from exportloss.runtime.evaluation.precision_recall import (
    CONFIDENCES,
    RECALLS,
    class_curves,
    match,
    rank,
    smooth,
)
from exportloss.runtime.evaluation.scores import METRICS, Scores

__all__ = [
    "ClassMetrics",
    "Curves",
    "Metrics",
    "MetricsAccumulator",
    "class_map_of",
]

_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """Metrics of one class that occurs in the labels.

    Attributes:
        index: Class index.
        images: Number of images with an object of the class.
        objects: Number of true objects, >= 1.
        precision: Precision at IoU 0.5 and `Metrics.confidence`, in [0, 1].
        recall: Recall at the same, in [0, 1].
        ap50: Average precision at IoU 0.5, in [0, 1].
        ap50_95: Mean of the average precisions at IoU 0.5, 0.55, ..., 0.95, in [0, 1].
    """

    index: int
    images: int
    objects: int
    precision: float
    recall: float
    ap50: float
    ap50_95: float


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Curves:
    """Curves at IoU 0.5 of the C classes that occur in the labels.

    Attributes:
        confidence: (1000,) confidence thresholds, from 0 to 1.
        precision: (C, 1000) precision of the detections above each threshold.
        recall: (C, 1000) recall of the detections above each threshold.
        recall_points: (101,) recalls, from 0 to 1.
        interpolated: (C, 101) COCO's precision at these; its mean is the average precision.
    """

    confidence: _Floats
    precision: _Floats
    recall: _Floats
    recall_points: _Floats
    interpolated: _Floats

    @property
    def f1(self) -> _Floats:
        """(C, 1000) harmonic mean of precision and recall; 0 where both are 0."""
        total = self.precision + self.recall
        product = 2 * self.precision * self.recall
        return np.divide(product, total, out=np.zeros_like(total), where=total > 0)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Metrics(Scores):
    """Metrics of detections, means over `classes`; all 0 if the labels have no object.

    Attributes:
        classes: Metrics of the classes that occur in the labels, in order.
        images: Number of images.
        objects: Number of true objects.
        confidence: Confidence at which precision and recall are taken, in [0, 1].
        curves: Curves of `classes`.
    """

    classes: tuple[ClassMetrics, ...]
    images: int
    objects: int
    confidence: float
    curves: Curves

    # By identity: arrays have no single truth value.
    __eq__, __hash__ = object.__eq__, object.__hash__


class MetricsAccumulator:
    """Collects the detections of images one by one, and computes their metrics.

    Args:
        num_classes: Number of classes of the data set, >= 1.
        max_det: Number of detections that count per image and class, the most confident, >= 1; the
            default of COCO is 100, of YOLOv5 300.

    Raises:
        ConfigError: a number is below 1.
    """

    def __init__(self, num_classes: int, *, max_det: int = 300) -> None:
        at_least(1, num_classes=num_classes, max_det=max_det)
        self.num_classes = num_classes
        self.max_det = max_det
        self._seen = 0
        self._objects = np.zeros(num_classes, np.int64)
        self._images = np.zeros(num_classes, np.int64)
        # Per image: confidence (n,), class (n,), right at each IoU threshold (n, T).
        self._found: list[tuple[_Floats, _Floats, _Flags]] = []

    def add(self, detections: npt.NDArray[np.floating], labels: npt.NDArray[np.floating]) -> None:
        """Add an image.

        Detections are matched by class, the most confident first (among equals the earlier), each
        to the unmatched object that it overlaps most (among equals the later). Among equal
        confidences in different images, the image added earlier ranks first.

        Args:
            detections: (n, 6) x1, y1, x2, y2 in pixels, confidence, class.
            labels: (m, 5) class, x1, y1, x2, y2 in the same pixels.

        Raises:
            ConfigError: another shape, a value that is not finite, or an unknown class.
        """
        detections = self._checked("detections", detections, columns=6, label=5)
        labels = self._checked("labels", labels, columns=5, label=0)
        self._seen += 1
        detections = detections[np.argsort(-detections[:, 4], kind="stable")]
        detections = detections[rank(detections[:, 5]) < self.max_det]
        found, true = detections[:, 5], labels[:, 0]
        # Overlaps between classes are 0, so one pass matches all classes.
        overlap = box_iou(detections[:, :4], labels[:, 1:]) * (found[:, None] == true)
        self._found.append((detections[:, 4], found, match(overlap)))
        counts = np.bincount(true.astype(int), minlength=self.num_classes)
        self._objects += counts
        self._images += counts > 0

    def result(self) -> Metrics:
        """Return the metrics of the images so far; more can be added afterwards."""
        present = np.flatnonzero(self._objects).tolist()
        results = []
        if present:
            confidence, label, right = map(np.concatenate, zip(*self._found, strict=True))
            for index in present:
                chosen, objects = label == index, int(self._objects[index])
                results.append(class_curves(confidence[chosen], right[chosen], objects))
        curves = Curves(
            confidence=CONFIDENCES,
            precision=_stack([one.precision for one in results], len(CONFIDENCES)),
            recall=_stack([one.recall for one in results], len(CONFIDENCES)),
            recall_points=RECALLS,
            interpolated=_stack([one.interpolated[0] for one in results], len(RECALLS)),
        )
        best = int(smooth(curves.f1.mean(axis=0)).argmax()) if results else 0
        classes = tuple(
            ClassMetrics(
                index=index,
                images=int(self._images[index]),
                objects=int(self._objects[index]),
                precision=float(one.precision[best]),
                recall=float(one.recall[best]),
                ap50=float(one.interpolated[0].mean()),
                ap50_95=float(one.interpolated.mean()),
            )
            for index, one in zip(present, results, strict=True)
        )
        return Metrics(
            classes=classes,
            images=self._seen,
            objects=int(self._objects.sum()),
            **{
                metric.name: _mean([getattr(one, metric.of_class) for one in classes])
                for metric in METRICS
            },
            confidence=float(CONFIDENCES[best]),
            curves=curves,
        )

    def _checked(
        self, name: str, rows: npt.NDArray[np.floating], *, columns: int, label: int
    ) -> _Floats:
        if rows.ndim != 2 or rows.shape[1] != columns:
            raise ConfigError(f"{name} have shape {rows.shape}; expected (n, {columns})")
        if not np.isfinite(rows).all():
            raise ConfigError(f"{name} hold a value that is not finite; remove such rows")
        known = np.isin(rows[:, label], np.arange(self.num_classes))
        if not known.all():
            raise ConfigError(
                f"{name} have class {rows[~known, label][0]:g}; expected a whole number in "
                f"[0, {self.num_classes})"
            )
        return rows.astype(np.float64)


def _stack(rows: list[_Floats], columns: int) -> _Floats:
    return np.array(rows).reshape(-1, columns)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def class_map_of(metrics: Metrics, num_classes: int) -> tuple[float, ...]:
    """Return the mAP50-95 of every class; classes without objects get the mean of the others."""
    values = [metrics.map50_95] * num_classes
    for one in metrics.classes:
        values[one.index] = one.ap50_95
    return tuple(values)
