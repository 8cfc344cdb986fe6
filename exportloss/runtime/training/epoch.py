"""One epoch: a step on every batch, then the validation."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from exportloss.errors import TrainingError
from exportloss.runtime.data.capacity import Overflow, fit_targets
from exportloss.runtime.data.loader import Batch, Batches
from exportloss.runtime.evaluation.metrics import class_map_of
from exportloss.runtime.evaluation.scores import scores_of
from exportloss.runtime.evaluation.validate import validate
from exportloss.runtime.sessions.session import Evaluation, LossTerms, TrainSession
from exportloss.runtime.training.results import START, EpochResult
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.schedule import Schedule
from exportloss.runtime.training.skipped import SkippedSteps, name_images
from exportloss.runtime.training.steps import EpochSteps

__all__ = ["Reporter", "evaluate_start", "run_epoch"]

_Entry = TypeVar("_Entry")


class Reporter(Protocol):
    """Receiver of the events of a run."""

    def batch_done(self, epoch: int, done: int, items: LossTerms, lr: float) -> None:
        """Report a batch: batches of the epoch done, mean loss terms so far, a learning rate."""

    def batch_skipped(self, epoch: int, done: int, loss: float, paths: Sequence[Path]) -> None:
        """Report a batch that changed nothing, before `batch_done`: its loss and images."""

    def start_done(self, result: EpochResult) -> None:
        """Report the validation before the first epoch."""

    def epoch_done(self, result: EpochResult, is_best: bool) -> None:
        """Report an epoch, which is saved by then."""


def run_epoch(
    session: TrainSession,
    train_batches: Batches,
    val_batches: Batches | None,
    schedule: Schedule,
    epoch: int,
    *,
    folder: RunFolder,
    overflow: Overflow,
    skipped: SkippedSteps,
    reporter: Reporter,
    class_map: Sequence[float] | None,
    steps: EpochSteps,
) -> EpochResult:
    """Train on every batch once, and validate if there are validation batches.

    Args:
        session: Session to train.
        train_batches: As for `train`.
        val_batches: As for `train`.
        schedule: As for `train`.
        epoch: Number of the epoch, from 0.
        folder: As for `train`.
        overflow: As for `train`.
        skipped: Counter of steps that changed nothing, which ends the run at its limit.
        reporter: As for `train`.
        class_map: (nc,) mAP50-95 of each class at the last validation; None before the first.
        steps: As for `train`.

    Raises:
        ArtifactError: the folder was removed or replaced during the epoch.
        DataError: an image cannot be decoded.
        TrainingError: too many steps were skipped, or a loss is not finite.
    """
    started = time.monotonic()
    result = _train_epoch(
        session,
        train_batches,
        schedule,
        epoch,
        folder=folder,
        overflow=overflow,
        skipped=skipped,
        reporter=reporter,
        class_map=class_map,
        steps=steps,
    )
    if val_batches is not None:
        result = _validate(session, val_batches, result, overflow)
    return dataclasses.replace(result, seconds=time.monotonic() - started)


def evaluate_start(session: TrainSession, batches: Batches, overflow: Overflow) -> EpochResult:
    """Validate a detector before any training.

    Raises:
        DataError: an image cannot be decoded.
        TrainingError: a loss is not finite.
    """
    started = time.monotonic()
    terms = session.manifest.loss_kind.terms
    untrained = LossTerms(*(math.nan for _ in terms), names=terms)
    start = EpochResult(epoch=START, train=untrained, val=None, lr=(0.0, 0.0, 0.0))
    start = _validate(session, batches, start, overflow)
    return dataclasses.replace(start, seconds=time.monotonic() - started)


def _train_epoch(
    session: TrainSession,
    batches: Batches,
    schedule: Schedule,
    epoch: int,
    *,
    folder: RunFolder,
    overflow: Overflow,
    skipped: SkippedSteps,
    reporter: Reporter,
    class_map: Sequence[float] | None,
    steps: EpochSteps,
) -> EpochResult:
    """Train on every batch once."""
    terms = session.manifest.loss_kind.terms
    all_dropped, trained, waited, started = 0, 0, 0.0, time.monotonic()
    total = np.zeros(len(terms))

    run = steps(session, batches, schedule, epoch, overflow=overflow, class_map=class_map)
    with contextlib.closing(run):
        for done, one in enumerate(_one_behind(run), 1):
            folder.check_held()  # fails now instead of when the epoch is saved
            batch, result, lr = one.batch, one.result, one.plan.lr
            where = f"epoch {epoch}, batch {done} of {len(batches)}"
            if result.skipped:
                reporter.batch_skipped(epoch, done, result.loss, batch.paths)
            skipped.note(result, batch, where)
            if not result.skipped:
                _check_finite(result.loss, where, batch)  # artifacts of version 0.1 do not skip
                total += list(result.items.values())
                trained += 1
            all_dropped += one.dropped
            waited += batch.waited
            items = LossTerms(*(total / max(trained, 1)).tolist(), names=terms)
            reporter.batch_done(epoch, done, items, lr[0])
    if result.skipped:
        # The last step, which should have updated, was skipped: a sum of gradients may be left
        # that a saved state does not hold. Drop it here too, so that a resumed run is the same.
        session.load_state(session.state())
    return EpochResult(
        epoch=epoch,
        train=items,
        val=None,
        lr=lr,
        left_out=all_dropped,
        skipped=len(batches) - trained,
        waiting=waited / (time.monotonic() - started),
    )


def _one_behind(entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """Yield each entry once the next exists, so that a GPU need not wait for results to be read."""
    waiting: list[_Entry] = []
    for entry in entries:
        yield from waiting
        waiting = [entry]
    yield from waiting


def _validate(
    session: TrainSession, batches: Batches, result: EpochResult, overflow: Overflow
) -> EpochResult:
    """Add the validation of the detector, with its running statistics, to a result."""
    manifest, all_dropped = session.manifest, 0
    after = "before the first epoch" if result.is_start else f"after epoch {result.epoch}"
    where = f"validation {after}"

    def evaluate(batch: Batch) -> Evaluation:
        nonlocal all_dropped
        targets, dropped = fit_targets(batch, manifest, overflow)
        all_dropped += dropped
        evaluation = session.evaluate(batch.images, targets, ema=manifest.ema)
        _check_finite(evaluation.loss, where, batch)
        return evaluation

    with contextlib.closing(batches.epoch(0)) as stream:
        validation = validate(evaluate, stream, num_classes=manifest.num_classes)
    metrics = validation.metrics
    return dataclasses.replace(
        result,
        val=validation.items,
        scores=scores_of(metrics),
        left_out=result.left_out + all_dropped,
        class_map=class_map_of(metrics, manifest.num_classes),
    )


def _check_finite(loss: float, where: str, batch: Batch) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} in {where} ({name_images(batch)}); train with a lower "
            "lr0 or a longer warm-up. States saved after earlier epochs are kept"
        )
