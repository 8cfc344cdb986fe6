"""Make what the tests of the page run on, in the environment that has torch.

    python -m tests.web.make_artifacts build/web/data

The folder then holds `detector`, YOLOv5n for the demonstration's shapes, and `shapes`, images of
them; `small-sgd` and `small-adamw`, artifacts of a small detector, with what Python makes of
`batches.safetensors` in `small-sgd-expected` and so on; and `python.json`, results of Python's
runtime for the inputs beside them.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from exportloss import YoloLoss
from exportloss.demo.dataset import SHAPE_NAMES, make_shapes
from exportloss.export.step.export import export_train_step
from exportloss.models import yolov5
from exportloss.runtime import TrainSession
from exportloss.runtime.evaluation.metrics import MetricsAccumulator
from exportloss.runtime.evaluation.nms import non_max_suppression
from exportloss.runtime.images.letterbox import Letterbox
from exportloss.runtime.images.resize import resize_area, resize_linear
from exportloss.runtime.optimizers.ema import decay_after
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.schedule import Schedule
from tests.support import tiny_detector as tiny

SIZE, BATCH, MAX_TARGETS = 160, 4, 32  # of the detector
TRAIN, VAL = 20, 8  # images
SMALL_BATCH, SMALL_TARGETS, STEPS = 2, 16, 4
SETTINGS: dict[str, Any] = {"lr": 1e-3, "momentum": 0.937, "weight_decay": 5e-4, "max_norm": 10.0}
SMALL: dict[str, dict[str, Any]] = {
    "small-sgd": {"optimizer": "sgd"},
    "small-adamw": {"optimizer": "adamw", "ema": True},
}


def make_detector(folder: Path) -> None:
    """Export YOLOv5n with random weights, the same every time."""
    torch.manual_seed(0)
    model = yolov5("yolov5n", len(SHAPE_NAMES))
    loss = YoloLoss(model.anchors_px, model.strides, model.num_classes)
    sizes = {"image_size": (SIZE, SIZE), "batch_size": BATCH, "max_targets": MAX_TARGETS}
    export_train_step(model, loss, folder, names=SHAPE_NAMES, **sizes)


def make_small(folder: Path, batches: dict[str, np.ndarray], **options: Any) -> dict[str, Any]:
    """Export a small detector, frozen in part, and train it; return its losses."""
    torch.manual_seed(0)
    detector = tiny.DecodingDetector()
    detector.stem.requires_grad_(options["optimizer"] == "sgd")
    sizes = {"image_size": (tiny.IMAGE, tiny.IMAGE), "batch_size": SMALL_BATCH}
    export_train_step(
        detector, tiny.make_loss(), folder, max_targets=SMALL_TARGETS, **sizes, **options
    )
    session = TrainSession.open(folder, threads=1)
    expected = folder.with_name(f"{folder.name}-expected")
    expected.mkdir()
    losses = []
    for number, batch in enumerate(zip(batches["images"], batches["targets"], strict=True)):
        losses.append(session.step(*batch, **SETTINGS, update=number % 2 == 1).loss)
    evaluation = session.evaluate(batches["images"][0], batches["targets"][0], ema=options["ema"])
    session.save(expected / "state.safetensors")
    session.export_inference(expected / "detector.onnx", ema=options["ema"])
    predictions = np.ascontiguousarray(evaluation.predictions)
    save_file({"predictions": predictions}, expected / "evaluation.safetensors")
    return {"losses": losses, "evaluation": evaluation.loss}


def draw_batches() -> dict[str, np.ndarray]:
    """Noise and boxes of all sizes, padded with zero rows."""
    rng = np.random.default_rng(0)
    rows = (STEPS, SMALL_TARGETS // 2)
    targets = np.zeros((STEPS, SMALL_TARGETS, 6), np.float32)
    targets[:, : rows[1], 0] = np.sort(rng.integers(0, SMALL_BATCH, rows))
    targets[:, : rows[1], 1] = rng.integers(0, tiny.CLASSES, rows)
    targets[:, : rows[1], 2:4] = rng.uniform(0, 1, (*rows, 2))
    targets[:, : rows[1], 4:] = rng.uniform(0.05, 0.6, (*rows, 2))
    shape = (STEPS, SMALL_BATCH, 3, tiny.IMAGE, tiny.IMAGE)
    return {"images": rng.integers(0, 256, shape, dtype=np.uint8), "targets": targets}


def resized(folder: Path) -> list[dict[str, Any]]:
    """Resize images as for training and validation; the pixels are in `images.safetensors`."""
    rng = np.random.default_rng(1)
    cases, tensors = [], {}
    for number, source in enumerate([(37, 53), (160, 120), (99, 40), (5, 7), (64, 64), (301, 17)]):
        image = rng.integers(0, 256, (*source, 3), dtype=np.uint8)
        box = Letterbox.fit(source, (64, 96), truncate=True)
        tensors[f"{number}/image"] = image
        tensors[f"{number}/linear"] = resize_linear(image, box.scaled)
        canvas = box.place(_pillow(tensors[f"{number}/linear"]))
        tensors[f"{number}/canvas"] = np.array(canvas)
        if box.scaled[0] <= source[0] and box.scaled[1] <= source[1]:
            tensors[f"{number}/area"] = resize_area(image, box.scaled)
        labels = rng.uniform(0, 1, (4, 5)).astype(np.float32)
        labels[:, 0] = np.arange(4)
        boxes = rng.uniform(-10, 110, (4, 6)).astype(np.float32)
        fits = [Letterbox.fit(source, (64, 96), truncate=whole) for whole in (True, False)]
        cases.append(
            {
                "source": source,
                "scaled": [fit.scaled for fit in fits],
                "pad": [fit.pad for fit in fits],
                "labels": labels.tolist(),
                "mapped": box.map_labels(labels).tolist(),
                "boxes": boxes.tolist(),
                "unmapped": box.unmap_boxes(boxes).tolist(),
            }
        )
    save_file(tensors, folder / "images.safetensors")
    return cases


def schedules() -> list[dict[str, Any]]:
    """Plan steps of runs with and without accumulation, a warm-up within and beyond the run."""
    cases = []
    for epochs, batches, nominal, cosine, optimizer in (
        (20, 5, 4, True, "sgd"),
        (60, 9, 64, False, "adamw"),
        (300, 3, 10, True, "rmsprop"),
    ):
        config = TrainingConfig(lr0=0.02, warmup_bias_lr=0.05)
        schedule = Schedule(
            epochs=epochs,
            batches=batches,
            batch_size=4,
            config=config,
            optimizer=optimizer,  # type: ignore[arg-type]
            cosine=cosine,
            nominal_batch=nominal,
        )
        steps = [[dataclasses.asdict(s) for s in schedule.steps(e)] for e in range(epochs)]
        settings = {
            "epochs": epochs,
            "batches": batches,
            "nominalBatch": nominal,
            "cosine": cosine,
            "optimizer": optimizer,
        }
        cases.append({"settings": settings, "decay": schedule.weight_decay, "steps": steps})
    return cases


def detections() -> list[dict[str, Any]]:
    """Suppress and judge rows of many overlapping boxes, some equally confident."""
    rng = np.random.default_rng(2)
    cases = []
    for classes, multi_label in ((1, False), (3, True), (4, False)):
        metrics = MetricsAccumulator(classes)
        images = []
        for _ in range(4):
            rows = np.empty((200, 5 + classes), np.float32)
            rows[:, :2] = rng.choice([20.0, 60.0, 110.0, 150.0], (200, 2)) + rng.normal(0, 4, (200, 2))
            rows[:, 2:4] = rng.uniform(10, 40, (200, 2))
            rows[:, 4:] = np.round(rng.uniform(0, 1, (200, 1 + classes)), 1)
            kept = non_max_suppression(
                rows[None], conf_thres=0.3, iou_thres=0.6, multi_label=multi_label, max_det=50
            )[0]
            chosen = kept[rng.permutation(len(kept))[:5]]
            moved = chosen[:, :4] + rng.normal(0, 3, (len(chosen), 4))
            labels = np.column_stack((chosen[:, 5], moved))
            metrics.add(kept, labels)
            images.append(
                {"rows": rows.tolist(), "kept": kept.tolist(), "labels": labels.tolist()}
            )
        result = metrics.result()
        each = [[one.index, one.objects, one.ap50, one.ap50_95] for one in result.classes]
        cases.append(
            {
                "classes": classes,
                "multiLabel": multi_label,
                "images": images,
                "map50": result.map50,
                "map5095": result.map50_95,
                "each": each,
            }
        )
    return cases


def _pillow(image: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(image)


def main(folder: Path) -> None:
    """Write everything; `python.json` comes last, so that its presence means a complete folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_shapes(folder / "shapes", train=TRAIN, val=VAL, size=SIZE, seed=7)
    make_detector(folder / "detector")
    batches = draw_batches()
    save_file(batches, folder / "batches.safetensors")
    small = {
        name: make_small(folder / name, batches, **{"ema": False, **options})
        for name, options in SMALL.items()
    }
    expected = {
        "settings": SETTINGS,
        "small": small,
        "resized": resized(folder),
        "schedules": schedules(),
        "detections": detections(),
        "ema": [decay_after(updates) for updates in (1, 2, 100, 5000)],
    }
    (folder / "python.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
