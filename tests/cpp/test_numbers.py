"""Letterboxes, suppression, schedules and detections have Python's numbers, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.evaluation.nms import non_max_suppression
from exportloss.runtime.images.letterbox import Letterbox, letterbox
from exportloss.runtime.images.load import load_image
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.schedule import Schedule

SIZES = ((1, 1), (7, 90), (90, 7), (31, 33), (64, 64), (127, 200), (480, 640))


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 128)])
@pytest.mark.parametrize("scale_up", [True, False])
def test_letterboxes(probe, rng, size, scale_up):
    images = {
        f"{index:02d}": rng.integers(0, 256, (*sides, 3), dtype=np.uint8)
        for index, sides in enumerate(SIZES)
    }
    places, found = probe(
        "letterbox", tensors=images, size=size, scale_up=scale_up, wants_tensors=True
    )
    expected_places: list[float] = []
    for name, image in images.items():
        canvas, box = letterbox(image, size, scale_up=scale_up)
        np.testing.assert_array_equal(found[name], canvas.transpose(2, 0, 1), err_msg=name)
        label = box.map_labels(np.array([[0, 0.3, 0.7, 0.123, 0.456]]))[0, 1:]
        back = box.unmap_boxes(np.array([[-3.25, 10.5, 33.3, 90.125]], np.float32))[0]
        expected_places += [*label.tolist(), *back.tolist()]
        assert isinstance(box, Letterbox)
    assert places == expected_places


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"agnostic": True, "iou_thres": 0.3},
        {"multi_label": True, "conf_thres": 0.001, "iou_thres": 0.6},
        {"classes": [1], "max_det": 7},
        {"max_candidates": 40, "conf_thres": 0.1},
    ],
)
def test_suppression(probe, rng, options):
    rows = rng.uniform(0, 1, (500, 8)).astype(np.float32)
    rows[:, :4] *= 100
    rows[:, 4:] = np.round(rows[:, 4:], 1)  # with equal confidences
    rows[3, 2] = np.nan
    rows[4, 6] = np.inf
    _, found = probe("nms", tensors={"rows": rows}, wants_tensors=True, **options)
    (expected,) = non_max_suppression(rows[None], **options)
    assert len(expected) > 5
    np.testing.assert_array_equal(found["rows"], expected)


@pytest.mark.parametrize(
    ("sizes", "optimizer", "cosine", "warmup"),
    [
        ((5, 40, 4), "sgd", False, 3.0),
        ((3, 150, 7), "adamw", True, 0.5),
        ((2, 1, 64), "adam", False, 0.0),
        ((4, 33, 100), "rmsprop", True, 3.7),
    ],
)
def test_schedules(probe, sizes, optimizer, cosine, warmup):
    named = dict(zip(("epochs", "batches", "batch_size"), sizes, strict=True))
    config = TrainingConfig(warmup_epochs=warmup, lr0=0.0123)
    schedule = Schedule(**named, optimizer=optimizer, cosine=cosine, config=config)
    decay, *found = probe(
        "schedule", **named, optimizer=optimizer, cosine=cosine, warmup_epochs=warmup, lr0=0.0123
    )
    assert decay == schedule.weight_decay
    assert found == [
        [*step.lr, step.momentum, step.accumulate, int(step.update)]
        for epoch in range(sizes[0])
        for step in schedule.steps(epoch)
    ]


def test_detections_of_a_file(probe, artifacts):
    images = [load_image(path) for path in sorted(Path(artifacts / "spots").rglob("*.png"))]
    assert images
    tensors = {f"{index:03d}": image for index, image in enumerate(images)}
    detector = artifacts / "bright.onnx"
    _, found = probe(
        "detect", tensors=tensors, detector=detector, size=(64, 64), wants_tensors=True
    )
    expected = Detector.open(detector, threads=1).detect(images, size=(64, 64))
    assert sum(map(len, expected)) > len(images)
    for index, boxes in enumerate(expected):
        np.testing.assert_array_equal(found[str(index)], boxes, err_msg=str(index))
