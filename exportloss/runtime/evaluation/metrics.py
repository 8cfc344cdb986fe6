"""Precision, recall and average precision of detections, with COCO's numbers.

Matching and average precision are those of pycocotools' `COCOeval` (Lin et al., "Microsoft COCO",
arXiv 1405.0312, and the evaluation's description on cocodataset.org) over all areas, without crowd
regions. Precision and recall are given as YOLOv5 gives them: at IoU 0.5 and the one confidence
where the mean F1 of the classes is best.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from exportloss.bounds import at_least
from exportloss.errors import ConfigError
from exportloss.runtime.evaluation.boxes import box_iou
from exportloss.runtime.evaluation.scores import METRICS, Scores

__all__ = [
    "IOU_THRESHOLDS",
    "ClassMetrics",
    "Curves",
    "Metrics",
    "MetricsAccumulator",
    "class_map_of",
]

Array = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]

IOU_THRESHOLDS: Array = np.linspace(0.5, 0.95, 10)
_RECALLS: Array = np.linspace(0, 1, 101)
_CONFIDENCES: Array = np.linspace(0, 1, 1000)
_SMOOTHING = 0.1  # width of the window that the best F1 is sought with, as confidence


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassMetrics:
    """One class that the labels have.

    Attributes:
        index: of the class.
        images: those that have an object of it.
        objects: true ones, >= 1.
        precision: at IoU 0.5 and `Metrics.confidence`, in [0, 1] like the rest.
        recall: the same.
        ap50: average precision at IoU 0.5.
        ap50_95: mean of the average precisions at IoU 0.5, 0.55, ..., 0.95.
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
    """What can be drawn of the C classes that the labels have, at IoU 0.5.

    Attributes:
        confidence: (1000,) thresholds, from 0 to 1.
        precision: (C, 1000) of the detections above each.
        recall: (C, 1000) the same.
        recall_points: (101,) from 0 to 1.
        interpolated: (C, 101) COCO's precision at these; its mean is the average precision.
    """

    confidence: Array
    precision: Array
    recall: Array
    recall_points: Array
    interpolated: Array

    @property
    def f1(self) -> Array:
        """(C, 1000) harmonic mean of precision and recall; 0 where both are."""
        total = self.precision + self.recall
        product = 2 * self.precision * self.recall
        return np.divide(product, total, out=np.zeros_like(total), where=total > 0)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Metrics(Scores):
    """What detections are worth. Where the labels have no object, all shares are 0.

    Attributes:
        classes: those that the labels have, in order; the means below run over them.
        images: all that were added.
        objects: true ones.
        confidence: where precision and recall were taken.
        curves: of `classes`.
    """

    classes: tuple[ClassMetrics, ...]
    images: int
    objects: int
    confidence: float
    curves: Curves

    # By identity, as what holds arrays.
    __eq__, __hash__ = object.__eq__, object.__hash__


class MetricsAccumulator:
    """Takes images one by one, and says in the end what the detections are worth.

    Args:
        num_classes: of the data set, >= 1.
        max_det: most detections an image and class that count, the most confident, >= 1; COCO's
            default is 100, YOLOv5's 300.

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
        # Of each image: confidence (n,), class (n,), right or not (n, T).
        self._found: list[tuple[Array, Array, _Flags]] = []

    def add(self, detections: npt.NDArray[np.floating], labels: npt.NDArray[np.floating]) -> None:
        """Add an image.

        Detections are matched by class, the most confident first (of equal ones the earlier), each
        to the free object that it overlaps most (of equal ones the later). Of equal confidences in
        different images the image added earlier ranks first.

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
        detections = detections[_rank(detections[:, 5]) < self.max_det]
        found, true = detections[:, 5], labels[:, 0]
        # Classes do not meet, so one pass matches them all.
        overlap = box_iou(detections[:, :4], labels[:, 1:]) * (found[:, None] == true)
        self._found.append((detections[:, 4], found, _match(overlap)))
        counts = np.bincount(true.astype(int), minlength=self.num_classes)
        self._objects += counts
        self._images += counts > 0

    def result(self) -> Metrics:
        """Return the metrics of the images so far; more can be added after."""
        present = np.flatnonzero(self._objects).tolist()
        results = []
        if present:
            confidence, label, right = map(np.concatenate, zip(*self._found, strict=True))
            for index in present:
                chosen = label == index
                results.append(_curves(confidence[chosen], right[chosen], self._objects[index]))
        curves = Curves(
            confidence=_CONFIDENCES,
            precision=_stack([one.precision for one in results], len(_CONFIDENCES)),
            recall=_stack([one.recall for one in results], len(_CONFIDENCES)),
            recall_points=_RECALLS,
            interpolated=_stack([one.interpolated[0] for one in results], len(_RECALLS)),
        )
        best = int(_smooth(curves.f1.mean(axis=0)).argmax()) if results else 0
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
            confidence=float(_CONFIDENCES[best]),
            curves=curves,
        )

    def _checked(
        self, name: str, rows: npt.NDArray[np.floating], *, columns: int, label: int
    ) -> Array:
        if rows.ndim != 2 or rows.shape[1] != columns:
            raise ConfigError(f"{name} have shape {rows.shape}; expected (n, {columns})")
        if not np.isfinite(rows).all():
            raise ConfigError(f"{name} hold a value that is not finite; leave such rows out")
        known = np.isin(rows[:, label], np.arange(self.num_classes))
        if not known.all():
            raise ConfigError(
                f"{name} have class {rows[~known, label][0]:g}; expected a whole number in "
                f"[0, {self.num_classes})"
            )
        return rows.astype(np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ClassCurves:
    precision: Array  # (1000,)
    recall: Array  # (1000,)
    interpolated: Array  # (T, 101)


def _curves(confidence: Array, right: _Flags, objects: int) -> _ClassCurves:
    """Draw the curves of one class from its D detections, in the order of their images."""
    order = np.argsort(-confidence, kind="stable")
    confidence = confidence[order]
    found = np.cumsum(right[order], axis=0)  # (D, T)
    recall = found / objects
    precision = found / np.arange(1, len(found) + 1)[:, None]
    return _ClassCurves(
        precision=_above(confidence, precision[:, 0], at_none=1.0),
        recall=_above(confidence, recall[:, 0], at_none=0.0),
        interpolated=_interpolate(recall, precision),
    )


def _rank(classes: Array) -> npt.NDArray[np.intp]:
    """Return how many of the same class come before each."""
    order = np.argsort(classes, kind="stable")
    _, start, counts = np.unique(classes[order], return_index=True, return_counts=True)
    rank = np.empty(len(classes), np.intp)
    rank[order] = np.arange(len(classes)) - np.repeat(start, counts)
    return rank


def _match(iou: Array) -> _Flags:
    """Return (D, T) which of D detections, by confidence, are right at each IoU threshold.

    Args:
        iou: (D, G) with the true objects.
    """
    detections, objects = iou.shape
    right = np.zeros((detections, len(IOU_THRESHOLDS)), np.bool_)
    free = np.ones((len(IOU_THRESHOLDS), objects), np.bool_)
    thresholds = np.arange(len(IOU_THRESHOLDS))
    for index in np.flatnonzero((iou >= IOU_THRESHOLDS[0]).any(axis=1)):
        fits = free & (iou[index] >= IOU_THRESHOLDS[:, None])  # (T, G)
        overlap = np.where(fits, iou[index], -1.0)
        best = objects - 1 - overlap[:, ::-1].argmax(axis=1)  # (T,) the last of equals
        hit = fits[thresholds, best]
        free[thresholds[hit], best[hit]] = False
        right[index] = hit
    return right


def _interpolate(recall: Array, precision: Array) -> Array:
    """Return (T, 101) the best precision that is had at each recall or beyond."""
    envelope = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    curves = np.zeros((len(IOU_THRESHOLDS), len(_RECALLS)))
    for curve, reached, best in zip(curves, recall.T, envelope.T, strict=True):
        first = np.searchsorted(reached, _RECALLS)
        inside = first < len(reached)
        curve[inside] = best[first[inside]]
    return curves


def _above(confidence: Array, values: Array, *, at_none: float) -> Array:
    """Return (1000,) values of the detections above each threshold, lines between them.

    Args:
        confidence: (D,) falling.
        values: (D,) of the detections down to each.
        at_none: the value above the highest confidence.
    """
    if not len(confidence):
        return np.zeros(len(_CONFIDENCES))
    return np.interp(-_CONFIDENCES, -confidence, values, left=at_none)


def _smooth(values: Array) -> Array:
    """Return the mean over a window around each value; the ends repeat."""
    half = round(len(values) * _SMOOTHING / 2)
    window = np.full(2 * half + 1, 1 / (2 * half + 1))
    return np.convolve(np.pad(values, half, mode="edge"), window, mode="valid")


def _stack(rows: list[Array], columns: int) -> Array:
    return np.array(rows).reshape(-1, columns)


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def class_map_of(metrics: Metrics, num_classes: int) -> tuple[float, ...]:
    """Return the mAP50-95 of every class; classes without objects have the mean of the others."""
    values = [metrics.map50_95] * num_classes
    for one in metrics.classes:
        values[one.index] = one.ap50_95
    return tuple(values)
