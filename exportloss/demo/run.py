"""The demonstration: draw shapes, export, train in ONNX Runtime and in eager torch, verify."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from exportloss.config import LossConfig
from exportloss.demo.dataset import SHAPE_NAMES, make_shapes
from exportloss.demo.detections import Detected, detect, find
from exportloss.demo.images import plot_losses, relative_gap, show_predictions, total
from exportloss.demo.settings import DemoSettings
from exportloss.export.ort.export import export_training_artifacts
from exportloss.export.step.export import export_train_step
from exportloss.export.verify.eager_session import EagerTrainSession, torch_threads
from exportloss.export.verify.report import Verification
from exportloss.export.verify.verify import verify_all
from exportloss.loss.yolo_loss import YoloLoss
from exportloss.models import read_checkpoint, transfer, yolov5
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.training.epoch import Reporter
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.schedule import Schedule
from exportloss.runtime.training.trainer import TrainResult, train

__all__ = ["TITLES", "DemoResult", "DemoSettings", "Engine", "Reporting", "Run", "demo"]

Engine = Literal["portable", "ort-training", "eager", "eager-float64"]

TITLES: Mapping[Engine, str] = {
    "portable": "portable step",
    "ort-training": "training artifacts",
    "eager": "eager torch",
    "eager-float64": "eager torch, float64",
}

Reporting = Callable[[Schedule], AbstractContextManager[Reporter]]

_MODEL = "yolov5n"
_MOST_SHAPES = 6  # per image

# YOLOv5's 0.03 suits long runs: in short ones the statistics lag behind the weights for epochs.
_BATCHNORM_MOMENTUM = 0.1

_SHOWN = 8  # images
_VERIFIED_STEPS = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One engine's training.

    Attributes:
        result: Written files, and losses per epoch.
        seconds: Time of training and validation.
        after: Detections in the validation images after training.
    """

    result: TrainResult
    seconds: float
    after: Detected

    @property
    def map50(self) -> float | None:
        """Mean average precision at IoU 0.5 after the last epoch; None without scores."""
        scores = self.result.epochs[-1].scores
        return None if scores is None else scores.map50


@dataclasses.dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Result of the demonstration.

    Attributes:
        runs: The same training with the portable step, with training artifacts, in eager torch
            and, if requested, in eager torch in float64.
        verifications: Verifications of both artifacts.
        before: Detections in the validation images before training.
        losses, predictions: Paths of the written images.
    """

    runs: Mapping[Engine, Run]
    verifications: Mapping[Engine, Verification]
    before: Detected
    losses: Path
    predictions: Path

    @property
    def passed(self) -> bool:
        """Whether both artifacts train as eager torch does, step by step."""
        return all(one.passed for one in self.verifications.values())

    def gaps(self, engine: Engine, split: str) -> list[float]:
        """Return relative differences from eager torch's losses; `split` is "train" or "val"."""
        mine, torchs = (self.runs[name].result.epochs for name in (engine, "eager"))
        return relative_gap(mine, torchs, split=split)

    def train_losses(self, engine: Engine) -> tuple[float, float]:
        """Return the training losses of the first and the last epoch."""
        epochs = self.runs[engine].result.epochs
        return total(epochs[0].train), total(epochs[-1].train)


def demo(
    folder: str | Path, settings: DemoSettings, *, say: Callable[[str], None], reporting: Reporting
) -> DemoResult:
    """Draw a data set, export YOLOv5n for it, and train it in ONNX Runtime and in eager torch.

    All start from the same weights and take the same batches in the same order, with the same
    learning rates. Everything is written below `folder`. Files of an earlier demonstration there
    are reused or replaced; nothing else is changed.

    Args:
        folder: Folder to write to.
        settings: Settings of the demonstration.
        say: Function that prints a line of progress.
        reporting: Function that makes the reporter of a run.

    Raises:
        ExportLossError: a setting is out of range, a file cannot be written, or a package is
            missing.
    """
    folder, size = Path(folder), settings.image_size
    say(f"data set: {settings.train} + {settings.val} images of shapes, {size} px")
    config = read_data_yaml(
        make_shapes(
            folder / f"shapes-{settings.train}-{settings.val}-{size}px-seed{settings.seed}",
            train=settings.train,
            val=settings.val,
            size=size,
            seed=settings.seed,
        )
    )
    train_batches = Batches(
        Dataset.open(config, "train"),
        settings.batch_size,
        (size, size),
        shuffle=True,
        seed=settings.seed,
        augment=Augmentation(fliplr=0.5, flipud=0.5),  # flipped shapes keep their class
    )
    val_batches = Batches(Dataset.open(config, "val"), settings.batch_size, (size, size))
    schedule = _schedule(settings, len(train_batches))

    say(f"export: {_MODEL} and its loss, batches of {settings.batch_size}")
    sessions: dict[Engine, TrainSession] = {
        engine: TrainSession.open(path, threads=settings.threads)
        for engine, path in _export(folder / "artifacts", settings).items()
    }
    portable = sessions["portable"]
    dtypes: dict[Engine, torch.dtype] = {"eager": torch.float32}
    if settings.float64:
        dtypes["eager-float64"] = torch.float64
    for engine, dtype in dtypes.items():
        sessions[engine] = EagerTrainSession(portable.folder, portable.manifest, dtype=dtype)
        sessions[engine].load_state(portable.state())
    images = list(val_batches)
    untrained = detect(portable, images)
    before = find(untrained, images, num_classes=len(SHAPE_NAMES))

    runs: dict[Engine, Run] = {}
    for engine, session in sessions.items():
        say(f"training: {settings.epochs} epochs, {TITLES[engine]}")
        started = time.monotonic()
        # On one thread eager torch's loss is deterministic, and torch does not slow the decoders.
        with reporting(schedule) as reporter, torch_threads(1):
            result = train(
                session,
                train_batches,
                val_batches,
                schedule,
                RunFolder(folder / engine),
                reporter=reporter,
            )
        seconds = time.monotonic() - started
        after = find(detect(session, images), images, num_classes=len(SHAPE_NAMES))
        runs[engine] = Run(result=result, seconds=seconds, after=after)

    say("verification: the same steps in eager torch, in float64")
    engines = [engine for engine in sessions if engine not in dtypes]
    verified = verify_all(
        [sessions[engine].folder for engine in engines],
        steps=_VERIFIED_STEPS,
        threads=settings.threads,
    )
    verifications = dict(zip(engines, verified, strict=True))
    losses, predictions = folder / "loss_curves.png", folder / "predictions.png"
    plot_losses(
        losses,
        {TITLES[engine]: run.result.epochs for engine, run in runs.items() if engine != "eager"},
        runs["eager"].result.epochs,
        title=f"{_MODEL} from {'random' if settings.weights is None else 'trained'} weights: "
        "ONNX Runtime over eager torch",
    )
    shown = slice(_SHOWN)
    show_predictions(
        predictions,
        [image.transpose(1, 2, 0) for batch in images for image in batch.images[: batch.count]][
            shown
        ],
        untrained[shown],
        detect(portable, images)[shown],
        SHAPE_NAMES,
    )
    return DemoResult(
        runs=runs,
        verifications=verifications,
        before=before,
        losses=losses,
        predictions=predictions,
    )


def _schedule(settings: DemoSettings, batches: int) -> Schedule:
    return Schedule(
        epochs=settings.epochs,
        batches=batches,
        batch_size=settings.batch_size,
        config=settings.training_config(),
        cosine=True,
        nominal_batch=settings.batch_size,  # one update per batch
    )


def _export(folder: Path, settings: DemoSettings) -> dict[Engine, Path]:
    """Export both kinds of artifact with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        if settings.weights is None:
            model = yolov5(_MODEL, len(SHAPE_NAMES))
        else:
            model = transfer(read_checkpoint(settings.weights), len(SHAPE_NAMES)).model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = _BATCHNORM_MOMENTUM
    loss = YoloLoss(model.anchors_px, model.strides, model.num_classes, LossConfig())
    exporters: dict[Engine, Callable[..., Manifest]] = {
        "portable": export_train_step,
        "ort-training": export_training_artifacts,
    }
    for engine, export in exporters.items():
        export(
            model,
            loss,
            folder / engine,
            image_size=(settings.image_size, settings.image_size),
            batch_size=settings.batch_size,
            max_targets=_MOST_SHAPES * settings.batch_size,
            names=SHAPE_NAMES,
            exist_ok=True,
        )
    return {engine: folder / engine for engine in exporters}
