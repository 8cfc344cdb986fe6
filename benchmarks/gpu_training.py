"""Train on drawn shapes in several precisions, and compare the results: `make gpu`.

    python -m benchmarks.gpu_training FOLDER --device cuda --precisions float32,float16,bfloat16

Prints a JSON object by precision: training loss in the first and in the last epoch, mAP50 of the
last, skipped steps and seconds. All start from the same random weights and see the same batches.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, get_args

import torch
from torch import nn

from exportloss import YoloLoss
from exportloss.bench.results import finite
from exportloss.demo.dataset import SHAPE_NAMES, make_shapes
from exportloss.export import export_train_step
from exportloss.models import yolov5
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.manifest import Precision
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.dataset import DataConfig, Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.schedule import Schedule
from exportloss.runtime.training.trainer import train

SIZE, BATCH, TARGETS, LR = 160, 8, 48, 0.02


def export(folder: Path, precision: Precision) -> Path:
    """Export YOLOv5n with the same random weights every time."""
    torch.manual_seed(0)
    model = yolov5("yolov5n", len(SHAPE_NAMES))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # YOLOv5's 0.03 is for longer runs
    export_train_step(
        model,
        YoloLoss(model.anchors_px, model.strides, model.num_classes),
        folder,
        image_size=(SIZE, SIZE),
        batch_size=BATCH,
        max_targets=TARGETS,
        precision=precision,
        provider="gpu",
        names=SHAPE_NAMES,
        exist_ok=True,
    )
    return folder


def run(
    folder: Path, config: DataConfig, precision: Precision, *, device: str, epochs: int
) -> dict[str, Any]:
    """Train once; return the results."""
    session = TrainSession.open(export(folder / precision, precision), device=device)
    batches = Batches(
        Dataset.open(config, "train"),
        BATCH,
        (SIZE, SIZE),
        shuffle=True,
        augment=Augmentation(fliplr=0.5, flipud=0.5),
    )
    schedule = Schedule(
        epochs=epochs,
        batches=len(batches),
        batch_size=BATCH,
        config=TrainingConfig(lr0=LR, warmup_bias_lr=LR),
        cosine=True,
        nominal_batch=BATCH,
    )
    started = time.monotonic()
    validation = Batches(Dataset.open(config, "val"), BATCH, (SIZE, SIZE))
    result = train(session, batches, validation, schedule, RunFolder(folder / f"run-{precision}"))
    first, last = result.epochs[0], result.epochs[-1]
    return {
        "train_loss": [sum(vars(epoch.train).values()) for epoch in (first, last)],
        "map50": None if last.scores is None else last.scores.map50,
        "skipped": session.skipped,
        "seconds": time.monotonic() - started,
    }


def main() -> None:
    """Train in each precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precisions", default=",".join(get_args(Precision)))
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--images", type=int, default=256)
    options = parser.parse_args()
    data = make_shapes(options.folder / "shapes", train=options.images, val=32, size=SIZE)
    found = {
        precision: run(
            options.folder,
            read_data_yaml(data),
            precision,
            device=options.device,
            epochs=options.epochs,
        )
        for precision in options.precisions.split(",")
    }
    print(json.dumps(finite(found), indent=1, allow_nan=False))


if __name__ == "__main__":
    main()
