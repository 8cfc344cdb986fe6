"""The training loop: epochs, validation, saved states and the best detector."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from exportloss.errors import ConfigError, TrainingError
from exportloss.runtime.loader import Batch, Batches
from exportloss.runtime.results import (
    EpochResult,
    Scores,
    best_epoch,
    read_results,
    write_results,
)
from exportloss.runtime.room import Overflow, check_batches, fit_targets
from exportloss.runtime.run_folder import RunFolder
from exportloss.runtime.schedule import PlannedStep, Schedule
from exportloss.runtime.session import Evaluation, Items, StepResult, TrainSession
from exportloss.runtime.skipped import MAX_SKIPPED, SkippedSteps, name_pictures
from exportloss.runtime.validate import validate

__all__ = ["Reporter", "RunCompleteError", "TrainResult", "is_exhausted", "train"]

_Entry = TypeVar("_Entry")

MAX_NORM = 10.0  # of the gradient, as in YOLOv5


class RunCompleteError(ConfigError):
    """A run that is to be resumed has come to its end already."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run came to.

    Attributes:
        folder: where it wrote.
        epochs: every epoch, those before a resume too.
        best: the epoch of the highest fitness, without a validation split of the lowest loss.
        updates: optimizer steps.
        stopped_early: whether patience ran out before the epochs did.
    """

    folder: RunFolder
    epochs: tuple[EpochResult, ...]
    best: EpochResult
    updates: int
    stopped_early: bool


class Reporter(Protocol):
    """Who is told how a run goes."""

    def batch_done(self, epoch: int, done: int, items: Items, lr: float) -> None:
        """Take note of a batch: how many of the epoch are done, the mean losses so far, a rate."""

    def batch_skipped(self, epoch: int, done: int, loss: float, paths: Sequence[Path]) -> None:
        """Take note of a batch that changed nothing, before `batch_done`: its loss and pictures."""

    def epoch_done(self, result: EpochResult, is_best: bool) -> None:
        """Take note of an epoch, which is saved by then."""


class _Silent:
    def batch_done(self, epoch: int, done: int, items: Items, lr: float) -> None: ...

    def batch_skipped(self, epoch: int, done: int, loss: float, paths: Sequence[Path]) -> None: ...

    def epoch_done(self, result: EpochResult, is_best: bool) -> None: ...


def train(
    session: TrainSession,
    train_batches: Batches,
    val_batches: Batches | None,
    schedule: Schedule,
    folder: RunFolder,
    *,
    overflow: Overflow = "auto",
    patience: int = 0,
    max_skipped: int = MAX_SKIPPED,
    resume: bool = False,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Train a session to the end of a schedule, or until it gets no better.

    After every epoch the detector, its moving average where the artifacts keep one, is validated,
    `results.csv` and `weights/last.safetensors` are written, and `weights/best.safetensors` where
    the fitness (without a validation split: the training loss) is the best so far; at the end
    `weights/best.onnx`. The session keeps the last state.

    Args:
        session: fresh from its artifacts; where `resume` is set its state is replaced.
        train_batches: order and flips of an epoch depend on its number alone.
        val_batches: what decides on the best epoch; None for none.
        schedule: for as many batches of the same size.
        folder: where to write; unless `resume` is set, an earlier run's results are removed.
        overflow: refuse batches of more target rows than the graph has, or drop the smallest
            boxes and count them. By default mosaics drop, and all other batches are refused: how
            full a mosaic gets is a matter of chance, with a bound far above what occurs.
        patience: stop after so many epochs without a better one; 0 never stops early.
        max_skipped: give up after so many steps in a row, or a whole epoch, whose loss or gradients
            are not finite, >= 1. Such a step changes nothing; it is counted, and the reporter told.
        resume: continue after the last epoch that `folder` holds; the result is, bit for bit,
            that of an uninterrupted run.
        reporter: who is told how it goes.

    Raises:
        TooManyTargetsError: a batch could hold more target rows than the graph has; raised before
            the first step.
        ConfigError: session, batches and schedule do not fit together, or (`RunCompleteError`)
            there is nothing left to resume.
        ArtifactError: the saved state is of another model or schedule, or cannot be written; or
            another training is at work in the folder; or the folder was removed meanwhile.
        DataError: a picture cannot be decoded.
        TrainingError: too many steps were skipped, the last batch is in `folder.skipped_batch`; or
            the loss of a validation is not finite. States saved before stay.
    """
    reporter = reporter or _Silent()
    manifest = session.manifest
    if (len(train_batches), manifest.batch_size) != (schedule.batches, schedule.batch_size):
        raise ConfigError(
            f"the schedule is for {schedule.batches} batches of {schedule.batch_size}; the data "
            f"set makes {len(train_batches)} and the artifacts take {manifest.batch_size}"
        )
    for batches in filter(None, (train_batches, val_batches)):
        check_batches(batches, manifest, overflow)
    skipped = SkippedSteps(folder.skipped_batch, min(max_skipped, schedule.batches))
    with folder.locked():
        results = (
            _resume(session, schedule, folder, patience) if resume else _start(session, folder)
        )
        while len(results) < schedule.epochs and not is_exhausted(results, patience):
            result = _epoch(
                session,
                train_batches,
                val_batches,
                schedule,
                len(results),
                folder=folder,
                overflow=overflow,
                skipped=skipped,
                reporter=reporter,
            )
            results.append(result)
            is_best = best_epoch(results) is result
            # The last state comes last: a run is resumed after the epoch that it holds, so whatever
            # a crash leaves beside it is written again, the same.
            write_results(folder.results, results)
            if is_best:
                session.save(folder.best)
            session.save(folder.last)
            reporter.epoch_done(result, is_best)
        last = session.state()
        session.resume(folder.best).export_inference(folder.best_onnx, ema=manifest.ema)
        session.load_state(last)
        return TrainResult(
            folder=folder,
            epochs=tuple(results),
            best=best_epoch(results),
            updates=last.updates,
            stopped_early=len(results) < schedule.epochs,
        )


def is_exhausted(results: Sequence[EpochResult], patience: int) -> bool:
    """Whether the last `patience` epochs, 1 or more, brought nothing better."""
    return bool(patience and results) and (
        results[-1].epoch - best_epoch(results).epoch >= patience
    )


def _epoch(
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
) -> EpochResult:
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
    )
    if val_batches is not None:
        result = _validate(session, val_batches, result, overflow)
    return dataclasses.replace(result, seconds=time.monotonic() - started)


def _start(session: TrainSession, folder: RunFolder) -> list[EpochResult]:
    if updates := session.state().updates:
        raise ConfigError(
            f"the session has made {updates} updates already; open a new one, or resume the run "
            "that it belongs to"
        )
    folder.clear()
    return []


def _resume(
    session: TrainSession, schedule: Schedule, folder: RunFolder, patience: int
) -> list[EpochResult]:
    """Load the last state; return the epochs that led to it."""
    if not folder.last.exists():  # interrupted in the first epoch
        return _start(session, folder)
    state = session.resume(folder.last).state()
    updates = state.updates + state.skipped  # that were due
    epochs = schedule.epochs_done(updates)
    results = read_results(folder.results)
    if epochs is None or len(results) < epochs:
        raise ConfigError(
            f"{folder.last} holds {updates} updates, which is no whole number of epochs of this "
            f"run ({len(results)} in {folder.results.name}); was the data set or an option changed?"
        )
    results = results[:epochs]
    finished = epochs == schedule.epochs or is_exhausted(results, patience)
    if finished and folder.best_onnx.exists():
        raise RunCompleteError(
            f"{folder.path} is complete, all {epochs} epochs; start a new run to train further"
        )
    return results


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
) -> EpochResult:
    """Train on every batch once."""
    total, left_out, trained, waited, started = np.zeros(3), 0, 0, 0.0, time.monotonic()

    def run() -> Generator[tuple[PlannedStep, Batch, int, StepResult], None, None]:
        with contextlib.closing(batches.epoch(epoch)) as stream:
            for step, batch in zip(schedule.steps(epoch), stream, strict=True):
                targets, dropped = fit_targets(batch, session.manifest, overflow)
                result = session.step(
                    batch.images,
                    targets,
                    lr=step.lr,
                    momentum=step.momentum,
                    weight_decay=schedule.weight_decay,
                    max_norm=MAX_NORM,
                    update=step.update,
                )
                yield step, batch, dropped, result

    with contextlib.closing(run()) as steps:
        for done, (step, batch, dropped, result) in enumerate(_one_behind(steps), 1):
            folder.check_held()  # noticed now rather than when the epoch is to be saved
            where = f"epoch {epoch}, batch {done} of {len(batches)}"
            if result.skipped:
                reporter.batch_skipped(epoch, done, result.loss, batch.paths)
            skipped.note(result, batch, where)
            if not result.skipped:
                _check_finite(result.loss, where, batch)  # artifacts of 0.1 do not skip
                total += dataclasses.astuple(result.items)
                trained += 1
            left_out += dropped
            waited += batch.waited
            items = Items(*(total / max(trained, 1)).tolist())
            reporter.batch_done(epoch, done, items, step.lr[0])
    if result.skipped:
        # The last update is due in the last step. Without it a sum of gradients may be left, which
        # a saved state does not have: it is dropped here too, so that a resumed run is the same.
        session.load_state(session.state())
    return EpochResult(
        epoch=epoch,
        train=items,
        val=None,
        lr=step.lr,
        left_out=left_out,
        skipped=len(batches) - trained,
        waiting=waited / (time.monotonic() - started),
    )


def _one_behind(entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """Yield each entry when the next is there: a GPU need not wait while a result is looked at."""
    waiting: list[_Entry] = []
    for entry in entries:
        yield from waiting
        waiting = [entry]
    yield from waiting


def _validate(
    session: TrainSession, batches: Batches, result: EpochResult, overflow: Overflow
) -> EpochResult:
    """Add what the detector, with its running statistics, makes of the validation pictures."""
    manifest, left_out = session.manifest, 0

    def evaluate(batch: Batch) -> Evaluation:
        nonlocal left_out
        targets, dropped = fit_targets(batch, manifest, overflow)
        left_out += dropped
        evaluation = session.evaluate(batch.images, targets, ema=manifest.ema)
        _check_finite(evaluation.loss, f"validation after epoch {result.epoch}", batch)
        return evaluation

    with contextlib.closing(batches.epoch(0)) as stream:
        validation = validate(evaluate, stream, num_classes=manifest.num_classes)
    metrics = validation.metrics
    return dataclasses.replace(
        result,
        val=validation.items,
        scores=Scores(
            precision=metrics.precision,
            recall=metrics.recall,
            map50=metrics.map50,
            map50_95=metrics.map50_95,
        ),
        left_out=result.left_out + left_out,
    )


def _check_finite(loss: float, where: str, batch: Batch) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} in {where} ({name_pictures(batch)}); train with a lower "
            "lr0 or a longer warm-up. What was saved after earlier epochs stays"
        )
