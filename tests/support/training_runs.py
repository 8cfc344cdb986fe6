"""Training runs on the drawn shapes, and when two of them are the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.data.augment import Augmentation
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.schedule import Schedule
from exportloss.runtime.training.trainer import TrainResult, train

# High enough for every update to leave traces in so short a run.
CONFIG = TrainingConfig(lr0=0.05)
EPOCHS = 3


class Recorder:
    """A reporter that stops the run at a batch of an epoch, as Ctrl-C would."""

    def __init__(self, stop: tuple[int, int] | None = None):
        self.stop = stop
        self.batches = []
        self.epochs = []
        self.skipped = []
        self.starts = []

    def batch_done(self, epoch, done, items, lr):
        self.batches.append((epoch, done))
        if (epoch, done) == self.stop:
            raise KeyboardInterrupt

    def batch_skipped(self, epoch, done, loss, paths):
        self.skipped.append((epoch, done, loss, paths))

    def start_done(self, result):
        self.starts.append(result)

    def epoch_done(self, result, is_best):
        self.epochs.append((result, is_best))


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything but the session."""

    train_batches: Batches
    val_batches: Batches | None
    schedule: Schedule
    folder: RunFolder

    def train(self, session: TrainSession, **options: Any) -> TrainResult:
        return train(
            session, self.train_batches, self.val_batches, self.schedule, self.folder, **options
        )

    def but(self, **changes: Any) -> Run:
        return dataclasses.replace(self, **changes)


def make_run(shapes: Path, project: Path) -> Run:
    data = read_data_yaml(shapes)
    train_batches = Batches(
        Dataset.open(data, "train"),
        2,
        (64, 64),
        shuffle=True,
        augment=Augmentation(fliplr=0.5),
    )
    return Run(
        train_batches,
        Batches(Dataset.open(data, "val"), 2, (64, 64)),
        Schedule(epochs=EPOCHS, batches=4, batch_size=2, config=CONFIG, nominal_batch=16),
        RunFolder.create(project, "exp"),
    )


def assert_same_state(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor, second[name], err_msg=name)


def assert_same_run(folder: RunFolder, other: RunFolder) -> None:
    for name in ("results", "last_onnx", "best_onnx"):
        one, two = getattr(folder, name), getattr(other, name)
        assert one.read_bytes() == two.read_bytes(), name
    for name in ("last", "best"):
        # Not by bytes: safetensors writes its metadata in any order.
        one, two = load_state(getattr(folder, name)), load_state(getattr(other, name))
        assert one.updates == two.updates
        assert_same_state(one.loss, two.loss)
        assert_same_state(one.model, two.model)
        assert_same_state(one.ema, two.ema)
        assert one.optimizer.keys() == two.optimizer.keys()
        for memory, tensors in one.optimizer.items():
            assert_same_state(tensors, two.optimizer[memory])
