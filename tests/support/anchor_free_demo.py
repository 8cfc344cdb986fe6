"""Training without anchors: `python -m tests.support.anchor_free_demo FOLDER` prints its mAP50.

The demonstration's images and number of epochs, random weights, the portable step of the detector
of the tests, wider, with AdamW.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

from exportloss import TaskAlignedConfig, TaskAlignedLoss
from exportloss.cli.train.progress import report
from exportloss.demo.dataset import SHAPE_NAMES, make_shapes
from exportloss.demo.settings import DemoSettings
from exportloss.export import export_train_step
from exportloss.runtime import TrainSession
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.schedule import Schedule
from exportloss.runtime.training.trainer import train
from tests.support.anchor_free import REG_MAX, STRIDES, AnchorFree

WIDTH, RATE, THREADS = 32, 0.003, 2


def run(folder: Path, settings: DemoSettings) -> float:
    """Train, and return the mAP50 after the last epoch."""
    size = (settings.image_size, settings.image_size)
    shapes = make_shapes(
        folder / "data", train=settings.train, val=settings.val, size=size[0], seed=settings.seed
    )
    torch.manual_seed(settings.seed)
    model = AnchorFree(len(SHAPE_NAMES), width=WIDTH)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # the run is short
    loss = TaskAlignedLoss(STRIDES, len(SHAPE_NAMES), TaskAlignedConfig(reg_max=REG_MAX))
    export_train_step(
        model,
        loss,
        folder / "artifacts",
        image_size=size,
        batch_size=settings.batch_size,
        max_targets=64,
        optimizer="adamw",
        names=SHAPE_NAMES,
    )
    data = read_data_yaml(shapes)
    batches = Batches(
        Dataset.open(data, "train"),
        settings.batch_size,
        size,
        shuffle=True,
        augment=Augmentation(fliplr=0.5),
    )
    schedule = Schedule(
        epochs=settings.epochs,
        batches=len(batches),
        batch_size=settings.batch_size,
        nominal_batch=settings.batch_size,
        config=TrainingConfig(lr0=RATE, warmup_bias_lr=RATE),
    )
    session = TrainSession.open(folder / "artifacts", threads=THREADS)
    validation = Batches(Dataset.open(data, "val"), settings.batch_size, size)
    with report(schedule) as reporter:
        result = train(
            session,
            batches,
            validation,
            schedule,
            RunFolder.create(folder, "run"),
            reporter=reporter,
        )
    scores = result.epochs[-1].scores
    assert scores is not None
    return scores.map50


if __name__ == "__main__":
    started = time.monotonic()
    found = run(Path(sys.argv[1]), DemoSettings())
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(f"mAP50 {found:.3f} after {time.monotonic() - started:.0f} s, load {load:.1f}")
