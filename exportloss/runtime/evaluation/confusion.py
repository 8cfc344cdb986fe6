"""Confusion matrix: the classes that a detector takes for one another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exportloss.bounds import at_least
from exportloss.errors import ConfigError
from exportloss.runtime.evaluation.boxes import box_iou

__all__ = ["ConfusionMatrix"]


class ConfusionMatrix:
    """Counts of detections by detected class and true class.

    A detection belongs to the object that it overlaps most, whatever the classes, if their IoU
    exceeds `iou_thres`; of several detections of an object only the one that overlaps it most
    counts as such. All others are detections of background, and objects without a detection are
    missed. (YOLOv5 v7 skips the wrong detections of an image in which no object is found; here they
    count.)

    Args:
        num_classes: Number of classes of the data set, >= 1.
        conf_thres: Confidence that detections must exceed, in [0, 1].
        iou_thres: IoU that detection and object must exceed, in [0, 1].

    Attributes:
        counts: (nc + 1, nc + 1) counts, detected class by true class; the last row holds missed
            objects, the last column detections of background.

    Raises:
        ConfigError: a number is out of range.
    """

    def __init__(
        self, num_classes: int, *, conf_thres: float = 0.25, iou_thres: float = 0.45
    ) -> None:
        at_least(1, num_classes=num_classes)
        for name, value in (("conf_thres", conf_thres), ("iou_thres", iou_thres)):
            if not 0 <= value <= 1:
                raise ConfigError(f"{name} is {value}; expected a number in [0, 1]")
        self.counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
        self._conf_thres = conf_thres
        self._iou_thres = iou_thres

    @property
    def num_classes(self) -> int:
        """Number of classes, without background."""
        return len(self.counts) - 1

    @property
    def fractions(self) -> npt.NDArray[np.float64]:
        """`counts`, with each column as fractions of its sum; 0 for an empty column."""
        sums = np.maximum(self.counts.sum(axis=0), 1)
        fractions: npt.NDArray[np.float64] = self.counts / sums
        return fractions

    def add(self, detections: npt.NDArray[np.floating], labels: npt.NDArray[np.floating]) -> None:
        """Add an image.

        Args:
            detections: (n, 6) x1, y1, x2, y2 in pixels, confidence, class.
            labels: (m, 5) class, x1, y1, x2, y2 in the same pixels.
        """
        background = self.num_classes
        detections = detections[detections[:, 4] > self._conf_thres]
        found, true = detections[:, 5].astype(int), labels[:, 0].astype(int)
        iou = box_iou(detections[:, :4], labels[:, 1:])  # (n, m)
        iou[iou <= self._iou_thres] = 0
        # Zero except for the object that a detection overlaps most.
        if true.size:
            iou[np.arange(len(true)) != iou.argmax(axis=1, keepdims=True)] = 0
        unmatched = np.ones(len(found), np.bool_)
        for label, overlaps in zip(true, iou.T, strict=True):
            if overlaps.any():
                best = int(overlaps.argmax())
                unmatched[best] = False
                self.counts[found[best], label] += 1
            else:
                self.counts[background, label] += 1
        self.counts[:, background] += np.bincount(found[unmatched], minlength=background + 1)
