"""YOLOv5's training schedule (v6.2, v7.0): rates, momentum and accumulation per batch."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from exportloss.bounds import at_least
from exportloss.runtime.optimizers.table import OPTIMIZERS, OptimizerName
from exportloss.runtime.training.hyp import TrainingConfig

__all__ = ["MIN_WARMUP", "PlannedStep", "Schedule"]

MIN_WARMUP = 100  # batches, however short the run is


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """Settings of one batch.

    Attributes:
        lr: Learning rates of the weights, norms and biases.
        momentum: Momentum, or the first beta of Adam and AdamW.
        accumulate: Batches whose gradients YOLOv5 would add up per update, >= 1.
        update: True if the parameters are updated after this batch.
    """

    lr: tuple[float, float, float]
    momentum: float
    accumulate: int
    update: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """Settings of every batch, as YOLOv5 would choose them.

    Learning rates fall from `lr0` towards `lr0 * lrf` over the epochs, linearly or along a cosine.
    In the first `warmup_epochs`, but at least 100 batches, the rates of weights and norms rise from
    0, that of the biases falls from `warmup_bias_lr`, the momentum rises from `warmup_momentum`
    (except for Adam and AdamW), and the accumulation grows from 1.

    Warm-up aims at `factor(epoch)`. After it, YOLOv5's scheduler sets the rates one epoch late: it
    steps when an epoch ends, so that epoch e trains with `factor(e - 1)`. The epoch in which
    warm-up ends keeps the rates that warm-up aimed at.

    Gradients are added up over about `nominal_batch` images. One thing differs from YOLOv5: a sum
    left at the end of an epoch is applied there instead of carried into the next one, so that a
    state saved between epochs is complete and a resumed run is the same run.

    As in YOLOv5, the 100 batches apply even to shorter runs, which then never leave warm-up; see
    `warmup_covers_run`.

    Attributes:
        epochs: Number of epochs of the run, >= 1.
        batches: Batches per epoch, >= 1.
        batch_size: Images per batch, >= 1.
        config: Rates, momentum, decay and warm-up.
        optimizer: Optimizer of the run; Adam and AdamW keep their betas through warm-up.
        cosine: True for a cosine decay (arXiv 1812.01187) instead of a linear one.
        nominal_batch: Images per update, >= 1; 64 in YOLOv5.

    Raises:
        ConfigError: a number is below 1.
    """

    epochs: int
    batches: int
    batch_size: int
    config: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    optimizer: OptimizerName = "sgd"
    cosine: bool = False
    nominal_batch: int = 64

    def __post_init__(self) -> None:
        for name in ("epochs", "batches", "batch_size", "nominal_batch"):
            at_least(1, **{name: getattr(self, name)})

    @property
    def warmup_batches(self) -> int:
        """Batches of warm-up, >= 100."""
        return max(round(self.config.warmup_epochs * self.batches), MIN_WARMUP)

    @property
    def warmup_covers_run(self) -> bool:
        """True if the run ends before warm-up does."""
        return self.epochs * self.batches <= self.warmup_batches

    @property
    def accumulate(self) -> int:
        """Batches per update after warm-up, >= 1."""
        return max(round(self.nominal_batch / self.batch_size), 1)

    @property
    def weight_decay(self) -> float:
        """Decay of the weights, scaled to the number of images per update."""
        return self.config.weight_decay * self.batch_size * self.accumulate / self.nominal_batch

    def factor(self, epoch: int) -> float:
        """Return the fraction of `lr0` that the decay has reached after a number of epochs."""
        lrf, done = self.config.lrf, epoch / self.epochs
        if self.cosine:
            return (1 - math.cos(math.pi * done)) / 2 * (lrf - 1) + 1
        return (1 - done) * (1 - lrf) + lrf

    def steps(self, epoch: int) -> tuple[PlannedStep, ...]:
        """Return the steps of an epoch, numbered from 0; the last one always updates."""
        planned = []
        waiting = 0  # batches whose gradients wait for an update
        for index in range(self.batches):
            step = self._step(epoch, index)
            waiting += 1
            if waiting >= step.accumulate or index == self.batches - 1:
                step = dataclasses.replace(step, update=True)
                waiting = 0
            planned.append(step)
        return tuple(planned)

    def epochs_done(self, updates: int) -> int | None:
        """Return the number of epochs that make `updates` updates; None if no whole number does."""
        made = 0
        for epoch in range(self.epochs + 1):
            if made >= updates:
                return epoch if made == updates else None
            made += sum(step.update for step in self.steps(epoch))
        return None

    def _step(self, epoch: int, index: int) -> PlannedStep:
        config = self.config
        warms_up = epoch * self.batches <= self.warmup_batches  # the first batch of the epoch
        lr = bias_lr = config.lr0 * self.factor(epoch if warms_up else epoch - 1)
        momentum, accumulate = config.momentum, self.accumulate
        if (iteration := epoch * self.batches + index) <= self.warmup_batches:
            warm_up = functools.partial(np.interp, iteration, (0, self.warmup_batches))
            bias_lr = float(warm_up((config.warmup_bias_lr, lr)))
            lr = float(warm_up((0.0, lr)))
            if OPTIMIZERS[self.optimizer].warms_up_momentum:
                momentum = float(warm_up((config.warmup_momentum, momentum)))
            accumulate = max(round(warm_up((1.0, self.nominal_batch / self.batch_size))), 1)
        return PlannedStep(
            lr=(lr, lr, bias_lr), momentum=momentum, accumulate=accumulate, update=False
        )
