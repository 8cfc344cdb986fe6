"""Rows of a detector, and the boxes that non-maximum suppression keeps of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from exportloss.errors import ArtifactError
from exportloss.runtime.evaluation.nms import check_predictions, non_max_suppression

Rows = list[list[float]]


def _row(x: float, y: float, width: float, height: float, *rest: float) -> list[float]:
    return [x, y, width, height, *rest]


def _random(images: int, rows: int, classes: int, *, seed: int = 0) -> np.ndarray:
    """Return rows in multiples of 1/64, of which many have equal confidences."""
    draw = np.random.default_rng(seed)
    centres = draw.integers(0, 64 * 64, (images, rows, 2)) / 64
    sides = draw.integers(64, 64 * 40, (images, rows, 2)) / 64
    rest = draw.integers(0, 33, (images, rows, 1 + classes)) / 32
    return np.concatenate((centres, sides, rest), axis=2).astype(np.float32)


_A, _NEAR = _row(20, 20, 10, 10), _row(21, 20, 10, 10)
_HUGE = float(np.float32(3e38))


def _cases() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    def one(rows: Rows) -> np.ndarray:
        return np.array([rows], np.float32)

    yield "no rows", np.zeros((2, 0, 7), np.float32), {}
    yield "one box", one([[*_A, 0.5, 1.0, 0.25]]), {}
    yield "the less confident of two", one([[*_NEAR, 0.5, 1, 0], [*_A, 0.75, 1, 0]]), {}
    yield "equal confidence: the earlier", one([[*_NEAR, 0.5, 1, 0], [*_A, 0.5, 1, 0]]), {}
    yield "equal classes: the first", one([[*_A, 0.5, 0.75, 0.75]]), {}
    two = one([[*_A, 0.75, 1, 0], [*_NEAR, 0.5, 0, 1]])
    yield "classes apart", two, {}
    yield "classes together", two, {"agnostic": True}
    yield "one class only", two, {"classes": [1]}
    yield "a box per class", one([[*_A, 0.5, 1, 0.75]]), {"multi_label": True}
    exact = one(
        [[*_A, 0.5, 0.5, 0], [*_row(60, 60, 4, 4), 0.25, 1, 0], [*_row(9, 60, 4, 4), 1, 0.25, 0]]
    )
    yield "confidence at the threshold", exact, {"conf_thres": 0.25}
    yield "objectness at the threshold", exact, {"conf_thres": 0.5}
    third = one([[*_row(10, 10, 20, 20), 0.75, 1, 0], [*_row(20, 10, 20, 20), 0.5, 1, 0]])
    yield "IoU of a third, at the threshold", third, {"iou_thres": 1 / 3}
    yield "IoU of a third, below", third, {"iou_thres": 0.3}
    half = one([[*_row(10, 10, 20, 20), 0.75, 1, 0], [*_row(10, 10, 20, 10), 0.5, 1, 0]])
    yield "IoU of a half, at the threshold", half, {"iou_thres": 0.5}
    point = [*_row(5, 5, 0, 0), 0.5, 1, 0]
    yield "boxes without area", one([point, point]), {}
    yield "IoU above 0", half, {"iou_thres": 0.0}
    chain = one([[*_row(10 + 4 * at, 10, 10, 10), 0.9 - at / 16, 1, 0] for at in range(6)])
    yield "a dropped box drops none", chain, {"iou_thres": 0.4}
    yield (
        "rows that are not finite",
        one(
            [
                [*_A, math.nan, 1, 0],
                [math.nan, 20, 10, 10, 0.5, 1, 0],
                [*_A, 0.5, 1, math.inf],
                [*_A, 0.25, 1, 0],
            ]
        ),
        {"conf_thres": 0.1},
    )
    yield (
        "boxes beyond 2^24 pixels",
        one([[*_row(0, 0, _HUGE, _HUGE), 0.5, 1, 0], [*_row(1e30, 0, 8, 8), 0.75, 1, 0]]),
        {},
    )
    yield "negative sides", one([[*_row(20, 20, -4, 6), 0.5, 1, 0], [*_A, 0.75, 1, 0]]), {}
    many = _random(2, 120, 3)
    yield "many", many, {}
    yield "many, as val", many, {"conf_thres": 0.001, "iou_thres": 0.6, "multi_label": True}
    yield "many, together", many, {"agnostic": True, "iou_thres": 0.2}
    yield "many, at most 5", many, {"max_det": 5}
    yield "many, 20 candidates", many, {"max_candidates": 20, "conf_thres": 0.01}
    classes = {"classes": [0, 2], "multi_label": True}
    yield "many, two classes", many, classes
    yield "one class", _random(1, 80, 1, seed=1), {}
    # More candidates than an implementation may compare at a time.
    yield "600 rows", _random(1, 600, 2, seed=2), {"conf_thres": 0.01, "max_det": 40}


_DEFAULTS = {
    "conf_thres": 0.25,
    "iou_thres": 0.45,
    "max_det": 300,
    "agnostic": False,
    "multi_label": False,
    "classes": None,
    "max_candidates": 30_000,
}


def is_usable(predictions: np.ndarray) -> bool:
    """Return whether `check_predictions` accepts a detector's rows."""
    try:
        check_predictions(predictions)
    except ArtifactError:
        return False
    return True


def make(files: dict[str, bytes]) -> list[object]:
    cases: list[object] = []
    for name, predictions, options in _cases():
        path = f"nms/{len(cases):03}.f32"
        files[path] = predictions.astype("<f4").tobytes()
        cases.append(
            {
                "name": name,
                "predictions": path,
                "shape": predictions.shape,
                **_DEFAULTS,
                **options,
                "usable": is_usable(predictions),
                "kept": non_max_suppression(predictions, **options),
            }
        )
    return cases
