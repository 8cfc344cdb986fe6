"""The training steps of an epoch, each with its batch and its result."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from typing import Protocol, TypedDict

from exportloss.runtime.data.capacity import Overflow, fit_targets
from exportloss.runtime.data.loader import Batch, Batches
from exportloss.runtime.sessions.session import StepResult, TrainSession
from exportloss.runtime.training.schedule import PlannedStep, Schedule

__all__ = ["MAX_NORM", "DoneStep", "EpochSteps", "StepSettings", "run_steps", "settings_of"]

MAX_NORM = 10.0  # clipping norm of the gradient, as in YOLOv5


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoneStep:
    """A training step.

    Attributes:
        plan: Settings of the step.
        batch: Batch of the step; without images if another process has it and the step was not
            skipped.
        dropped: Number of target rows that did not fit the graph.
        result: Result of the step.
    """

    plan: PlannedStep
    batch: Batch
    dropped: int
    result: StepResult


class StepSettings(TypedDict):
    """Settings of a step as `TrainSession.step` takes them."""

    lr: tuple[float, float, float]
    momentum: float
    weight_decay: float
    max_norm: float
    update: bool


def settings_of(plan: PlannedStep, schedule: Schedule) -> StepSettings:
    """Return the settings of a planned step."""
    return {
        "lr": plan.lr,
        "momentum": plan.momentum,
        "weight_decay": schedule.weight_decay,
        "max_norm": MAX_NORM,
        "update": plan.update,
    }


class EpochSteps(Protocol):
    """Signature of `run_steps`: a way to do the steps of an epoch."""

    def __call__(
        self,
        session: TrainSession,
        batches: Batches,
        schedule: Schedule,
        epoch: int,
        *,
        overflow: Overflow,
        class_map: Sequence[float] | None,
    ) -> Generator[DoneStep, None, None]:
        """Yield the steps of an epoch in order."""


def run_steps(
    session: TrainSession,
    batches: Batches,
    schedule: Schedule,
    epoch: int,
    *,
    overflow: Overflow,
    class_map: Sequence[float] | None,
) -> Generator[DoneStep, None, None]:
    """Do the steps of an epoch one after the other, in this process.

    Args:
        session: Session to train.
        batches: Training batches.
        schedule: Schedule for as many batches.
        epoch: Number of the epoch, from 0.
        overflow: As for `train`.
        class_map: (nc,) mAP50-95 of each class at the last validation; None before the first.

    Raises:
        DataError: an image cannot be decoded.
    """
    with contextlib.closing(batches.epoch(epoch, class_map=class_map)) as stream:
        for plan, batch in zip(schedule.steps(epoch), stream, strict=True):
            targets, dropped = fit_targets(batch, session.manifest, overflow)
            result = session.step(batch.images, targets, **settings_of(plan, schedule))
            yield DoneStep(plan=plan, batch=batch, dropped=dropped, result=result)
