"""Detections and labels of images, and the metrics of them."""

from __future__ import annotations

import numpy as np

from exportloss.runtime.evaluation.metrics import MetricsAccumulator

_NAMES = ("precision", "recall", "map50", "map50_95", "confidence")


def _drawn(seed: int, images: int, classes: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return detections near labels, some missing, some of another class, some invented."""
    draw = np.random.default_rng(seed)
    drawn = []
    for _ in range(images):
        count = int(draw.integers(0, 7))
        corner = draw.integers(0, 200, (count, 2))
        boxes = np.concatenate((corner, corner + draw.integers(8, 60, (count, 2))), axis=1)
        label = draw.integers(0, classes, (count, 1))
        moved = boxes + draw.integers(-6, 7, boxes.shape) / 2
        found = np.where(
            draw.random((count, 1)) < 0.2, draw.integers(0, classes, (count, 1)), label
        )
        confidence = draw.integers(1, 33, (count, 1)) / 32
        detections = np.concatenate((moved, confidence, found), axis=1)
        kept = detections[draw.random(count) < 0.8]
        more = kept[draw.random(len(kept)) < 0.4] + np.array([4, 4, 4, 4, 0, 0])
        labels = np.concatenate((label, boxes), axis=1)
        drawn.append((np.concatenate((kept, more)).astype(np.float64), labels.astype(np.float64)))
    return drawn


def make(files: dict[str, bytes]) -> list[object]:
    box = [10.0, 10.0, 30.0, 30.0]
    none, found = np.zeros((0, 6)), np.array([[*box, 0.5, 0]])
    label, no_label = np.array([[0, *box]]), np.zeros((0, 5))
    twice = np.array([[*box, 0.5, 0], [*box, 0.5, 0]])
    listed = {
        "nothing": (2, 300, [(none, no_label)]),
        "a right box": (2, 300, [(found, label)]),
        "a missed object": (2, 300, [(none, label)]),
        "an invented box": (2, 300, [(found, no_label), (none, label)]),
        "one object found twice": (2, 300, [(twice, label)]),
        "drawn": (3, 300, _drawn(0, 12, 3)),
        "drawn, the 2 most confident per class": (2, 2, _drawn(1, 8, 2)),
    }
    cases: list[object] = []
    for name, (classes, most, images) in listed.items():
        metrics = MetricsAccumulator(classes, max_det=most)
        for detections, labels in images:
            metrics.add(detections, labels)
        result = metrics.result()
        cases.append(
            {
                "name": name,
                "num_classes": classes,
                "max_det": most,
                "images": [{"detections": one, "labels": other} for one, other in images],
                "metrics": {key: getattr(result, key) for key in _NAMES},
                "ap50_95": {str(one.index): one.ap50_95 for one in result.classes},
            }
        )
    return cases
