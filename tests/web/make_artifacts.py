"""Make what the tests of the page run on, in the environment that has torch.

    python -m tests.web.make_artifacts build/web/data

The folder then holds `detector`, YOLOv5n for the demonstration's shapes, and `shapes`, dark images
of them; `small-sgd` and `small-adamw`, artifacts of a small detector, with what Python makes of
`batches.safetensors` in `small-sgd-expected` and so on; and `python.json`, settings and losses.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

from exportloss import YoloLoss
from exportloss.demo.dataset import SHAPE_NAMES, make_shapes
from exportloss.export.step.export import export_train_step
from exportloss.models import yolov5
from exportloss.runtime import TrainSession
from tests.support import tiny_detector as tiny

SIZE, BATCH, MAX_TARGETS = 160, 4, 32  # of the detector
TRAIN, VAL, BRIGHTNESS = 20, 8, 0.35  # of the images
SMALL_BATCH, SMALL_TARGETS, STEPS = 2, 16, 4
SETTINGS: dict[str, Any] = {"lr": 1e-3, "momentum": 0.937, "weight_decay": 5e-4, "max_norm": 10.0}
SMALL: dict[str, dict[str, Any]] = {
    "small-sgd": {"optimizer": "sgd"},
    "small-adamw": {"optimizer": "adamw", "ema": True},
}


def make_dark_shapes(folder: Path) -> None:
    """Draw shapes, and darken them: as another camera would take them."""
    make_shapes(folder, train=TRAIN, val=VAL, size=SIZE, seed=7)
    for path in folder.rglob("*.png"):
        with Image.open(path) as file:
            pixels = np.asarray(file)
        Image.fromarray((pixels * BRIGHTNESS).astype(np.uint8)).save(path)


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


def main(folder: Path) -> None:
    """Write everything; `python.json` comes last, so that its presence means a complete folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make_dark_shapes(folder / "shapes")
    make_detector(folder / "detector")
    batches = draw_batches()
    save_file(batches, folder / "batches.safetensors")
    small = {
        name: make_small(folder / name, batches, **{"ema": False, **options})
        for name, options in SMALL.items()
    }
    expected = {"settings": SETTINGS, "small": small}
    (folder / "python.json").write_text(json.dumps(expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
