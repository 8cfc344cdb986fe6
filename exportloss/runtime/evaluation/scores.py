"""The metrics of a detector: one table that files, progress, tables and plots read.

To add a metric, add a field to `Scores` and a row to `METRICS`, and let `metrics.py` compute it per
class.
"""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["METRICS", "Metric", "Scores", "scores_of"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric, in [0, 1].

    Attributes:
        name: Attribute of `Scores`.
        of_class: Attribute of `ClassMetrics`, whose mean over the classes is the metric.
        column: Column of `results.csv`, as named by YOLOv5.
        heading: Heading in val's table.
        is_summary: True if one-line summaries show it.
    """

    name: str
    of_class: str
    column: str
    heading: str
    is_summary: bool = False


METRICS = (
    Metric(name="precision", of_class="precision", column="metrics/precision", heading="P"),
    Metric(name="recall", of_class="recall", column="metrics/recall", heading="R"),
    Metric(
        name="map50",
        of_class="ap50",
        column="metrics/mAP_0.5",
        heading="mAP50",
        is_summary=True,
    ),
    Metric(
        name="map50_95",
        of_class="ap50_95",
        column="metrics/mAP_0.5:0.95",
        heading="mAP50-95",
        is_summary=True,
    ),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores of a detector on the validation images: means over the classes, in [0, 1].

    Attributes:
        precision: Precision at the confidence of the best F1.
        recall: Recall at the same confidence.
        map50: Mean average precision at IoU 0.5.
        map50_95: Mean average precision over IoU 0.5 to 0.95; COCO's AP.
    """

    precision: float
    recall: float
    map50: float
    map50_95: float

    @property
    def fitness(self) -> float:
        """Fitness by which YOLOv5 chooses the best epoch: 0.1 mAP50 + 0.9 mAP50-95."""
        return 0.1 * self.map50 + 0.9 * self.map50_95

    def summary(self, separator: str = "  ") -> str:
        """Return the main metrics as text, `mAP50 0.512  mAP50-95 0.334`."""
        return separator.join(
            f"{metric.heading} {getattr(self, metric.name):.3f}"
            for metric in METRICS
            if metric.is_summary
        )


def scores_of(source: Any) -> Scores:
    """Return the scores among the attributes of an object, such as `Metrics`."""
    return Scores(**{metric.name: getattr(source, metric.name) for metric in METRICS})
