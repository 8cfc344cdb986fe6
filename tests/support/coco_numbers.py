"""Average precision as pycocotools computes it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.labels import read_labels
from exportloss.runtime.images.load import load_image


def coco_precision(
    labels: Sequence[np.ndarray], results: list[dict[str, Any]] | str, classes: int, max_det: int
) -> np.ndarray:
    """(10, 101, C) precision, -1 for a class without objects; all areas, no crowds.

    Args:
        labels: (n, 5) class, x1, y1, x2, y2, of image 0, 1, ...
        results: in COCO's format, or a file of them.
        classes: number of classes.
        max_det: most detections an image and class.
    """
    annotations = []
    for image, rows in enumerate(labels):
        for label, x1, y1, x2, y2 in rows.tolist():
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image, "category_id": int(label)}
                | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": image} for image in range(len(labels))],
            "categories": [{"id": label} for label in range(classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.params.maxDets = [max_det]
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][..., 0, 0]


def coco_map(data: Path, results: Path) -> tuple[float, float]:
    """mAP50 and mAP50-95 of a file that `val --save-json` wrote, from the label files.

    The images of the split `val` are called 0, 1, ... in order.
    """
    dataset = Dataset.open(read_data_yaml(data), "val")
    labels = []
    for image, path in zip(dataset.images, dataset.labels, strict=True):
        height, width = load_image(image).shape[:2]
        rows = read_labels(path, dataset.num_classes).astype(np.float64)
        centre, half = rows[:, 1:3], rows[:, 3:5] / 2
        shares = np.concatenate((centre - half, centre + half), axis=1)
        corners = shares * (width, height, width, height)
        labels.append(np.concatenate((rows[:, :1], corners), axis=1))
    precision = coco_precision(labels, str(results), dataset.num_classes, 300)
    return float(precision[0].mean()), float(precision.mean())
