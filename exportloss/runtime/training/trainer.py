"""The training loop: epochs, validation, saved states and the best detector."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from exportloss.errors import ConfigError
from exportloss.runtime.artifact.kinds import KINDS
from exportloss.runtime.artifact.state import TrainState, save_state
from exportloss.runtime.data.capacity import Overflow, check_batches
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.sessions.session import LossTerms, TrainSession
from exportloss.runtime.training.epoch import Reporter, evaluate_start, run_epoch
from exportloss.runtime.training.results import (
    EpochResult,
    best_epoch,
    read_results,
    write_results,
)
from exportloss.runtime.training.run_folder import RunFolder
from exportloss.runtime.training.run_log import append_to_log, read_class_map, read_start
from exportloss.runtime.training.schedule import Schedule
from exportloss.runtime.training.skipped import MAX_SKIPPED, SkippedSteps
from exportloss.runtime.training.steps import EpochSteps, run_steps

__all__ = ["Reporter", "RunCompleteError", "TrainResult", "is_exhausted", "train"]


class RunCompleteError(ConfigError):
    """A run to resume is already complete."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Result of a run.

    Attributes:
        folder: Folder of the run.
        epochs: All epochs, including those before a resume.
        best: Epoch of the highest fitness (without a validation split: of the lowest loss), or the
            start if no epoch is better.
        start: Validation before the first epoch; None without a validation split, or if a resumed
            run has no record of it.
        updates: Number of optimizer steps.
        stopped_early: True if `patience` ended the run.
    """

    folder: RunFolder
    epochs: tuple[EpochResult, ...]
    best: EpochResult
    start: EpochResult | None
    updates: int
    stopped_early: bool


class _Silent:
    def batch_done(self, epoch: int, done: int, items: LossTerms, lr: float) -> None: ...

    def batch_skipped(self, epoch: int, done: int, loss: float, paths: Sequence[Path]) -> None: ...

    def start_done(self, result: EpochResult) -> None: ...

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
    validate_each: bool = True,
    save_each: bool = True,
    save_period: int = 0,
    resume: bool = False,
    reporter: Reporter | None = None,
    steps: EpochSteps = run_steps,
) -> TrainResult:
    """Train a session to the end of a schedule, or until it stops improving.

    After every epoch the detector (its moving average if the artifacts keep one) is validated;
    `results.csv`, `results.jsonl` and `weights/last.safetensors` are written, and
    `weights/best.safetensors` if the fitness (without a validation split: the training loss) is the
    best so far. At the end `weights/last.onnx` and `weights/best.onnx` are written. The session
    keeps the last state.

    With a validation split the detector is also validated before the first epoch, and this start
    stays the best if no epoch is better.

    Args:
        session: Session without updates; with `resume` its state is replaced.
        train_batches: Training batches; they depend only on the number of the epoch and, for
            weighted images, on the class mAPs of the last validation.
        val_batches: Batches that decide on the best epoch; None for none.
        schedule: Schedule for the same number and size of batches.
        folder: Folder to write to; without `resume` an earlier run's results are removed.
        overflow: `"raise"` to refuse data sets whose batches could have more target rows than the
            graph, `"keep-largest"` to drop the smallest boxes and count them. `"auto"` drops boxes
            of mosaics only, whose fullest possible batch is far above what occurs.
        patience: Number of epochs without a better one after which to stop; 0 never stops early.
        max_skipped: Number of steps in a row whose loss or gradients are not finite after which the
            run ends, >= 1; a whole epoch of them always ends it. Such a step changes nothing; it is
            counted and reported.
        validate_each: True to validate after every epoch; False to validate only the start and the
            last epoch, without `patience`.
        save_each: True to write states after every epoch; False to write them at the end, so that
            an interrupted run cannot be resumed.
        save_period: Number of epochs between states kept as `weights/epoch10.safetensors` and so
            on; 0 keeps none.
        resume: True to continue after the last epoch in `folder`; the result is, bit for bit, that
            of an uninterrupted run.
        reporter: Receiver of the run's events; None for none.
        steps: Way to do the steps of an epoch, such as by several processes at once.

    Raises:
        TooManyTargetsError: a batch could hold more target rows than the graph; raised before the
            first step.
        ConfigError: session, batches and schedule do not fit together, or (`RunCompleteError`)
            the run to resume is complete.
        ArtifactError: the saved state belongs to another model or schedule, or cannot be written;
            another training holds the folder; or the folder was removed.
        DataError: an image cannot be decoded.
        TrainingError: too many steps were skipped (the last batch is in `folder.skipped_batch`), or
            the loss of a validation is not finite. States saved before are kept.
    """
    reporter = reporter or _Silent()
    manifest = session.manifest
    if (len(train_batches), manifest.batch_size) != (schedule.batches, schedule.batch_size):
        raise ConfigError(
            f"the schedule is for {schedule.batches} batches of {schedule.batch_size}; the data "
            f"set makes {len(train_batches)} and the artifacts take {manifest.batch_size}"
        )
    # Training artifacts of version 0.1 have no such file, and do not need it.
    if KINDS[manifest.kind].detector_file and "inference.onnx" not in manifest.files:
        raise ConfigError(
            f"{session.folder} was exported from a model without `decode`, but a run exports its "
            "detector at the end; give the model a `decode`, and export again"
        )
    for batches in filter(None, (train_batches, val_batches)):
        check_batches(batches, manifest, overflow)
    skipped = SkippedSteps(folder.skipped_batch, min(max_skipped, schedule.batches))
    patience = patience if validate_each else 0
    with folder.locked():
        results = (
            _resume(session, schedule, folder, patience) if resume else _start(session, folder)
        )
        start = read_start(folder.log) if results else None
        states = _States(session, folder, at_once=save_each, period=save_period)
        if val_batches is not None and not results:
            start = evaluate_start(session, val_batches, overflow)
            states.keep_best()
            append_to_log(folder.log, start)
            reporter.start_done(start)
        class_map = None if train_batches.image_weights is None else _class_map(folder, results)
        candidates = [start] if start is not None else []
        while len(results) < schedule.epochs and not is_exhausted(results, patience):
            is_validated = validate_each or len(results) == schedule.epochs - 1
            result = run_epoch(
                session,
                train_batches,
                val_batches if is_validated else None,
                schedule,
                len(results),
                folder=folder,
                overflow=overflow,
                skipped=skipped,
                reporter=reporter,
                class_map=class_map,
                steps=steps,
            )
            results.append(result)
            class_map = result.class_map or class_map
            is_best = best_epoch([*candidates, *results]) is result
            # The last state comes last: a run resumes after its epoch, so files that a crash leaves
            # beside it are written again, unchanged.
            write_results(folder.results, results)
            append_to_log(folder.log, result)
            if is_best:
                states.keep_best()
            states.keep_last(result.epoch)
            reporter.epoch_done(result, is_best)
        last = session.state()
        states.write()
        # A run with a best detector is complete, so that file comes last.
        session.export_inference(folder.last_onnx, ema=manifest.ema)
        session.resume(folder.best).export_inference(folder.best_onnx, ema=manifest.ema)
        session.load_state(last)
        return TrainResult(
            folder=folder,
            epochs=tuple(results),
            best=best_epoch([*candidates, *results]),
            start=start,
            updates=last.updates,
            stopped_early=len(results) < schedule.epochs,
        )


class _States:
    """Keeps the states of a run: the best, the last, and one every `period` epochs."""

    def __init__(
        self, session: TrainSession, folder: RunFolder, *, at_once: bool, period: int
    ) -> None:
        self._session = session
        self._folder = folder
        self._at_once = at_once
        self._period = period
        self._best: TrainState | None = None

    def keep_best(self) -> None:
        if self._at_once:
            self._session.save(self._folder.best)
        else:
            self._best = self._session.state()

    def keep_last(self, epoch: int) -> None:
        if self._period and epoch % self._period == 0:
            self._session.save(self._folder.of_epoch(epoch))
        if self._at_once:
            self._save_last()

    def write(self) -> None:
        """Write the states kept in memory; the last state comes last."""
        if self._best is not None:
            save_state(self._folder.best, self._best, manifest=self._session.manifest)
        if not self._at_once:
            self._save_last()

    def _save_last(self) -> None:
        """Write the last state; an interruption never leaves another state's detector beside it."""
        self._folder.remove_last_onnx()
        self._session.save(self._folder.last)


def is_exhausted(results: Sequence[EpochResult], patience: int) -> bool:
    """Return whether the last `patience` epochs are no better than an earlier one; False for 0."""
    return bool(patience and results) and (
        results[-1].epoch - best_epoch(results).epoch >= patience
    )


def _start(session: TrainSession, folder: RunFolder) -> list[EpochResult]:
    if updates := session.state().updates:
        raise ConfigError(
            f"the session has made {updates} updates already; expected none: open a new session, "
            "or resume its run"
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
    updates = state.updates + state.skipped  # updates due
    epochs = schedule.epochs_done(updates)
    results = read_results(folder.results)
    if epochs is None or len(results) < epochs:
        raise ConfigError(
            f"{folder.last} holds {updates} updates, which is no whole number of epochs of this "
            f"run ({len(results)} in {folder.results.name}); was the data set or an option changed?"
        )
    results = results[:epochs]
    stopped_early = is_exhausted(results, patience)
    finished = epochs == schedule.epochs or stopped_early
    if finished and _is_newer(folder.best_onnx, folder.last):
        if stopped_early:
            raise RunCompleteError(
                f"{folder.path} stopped early after {epochs} epochs: none of the last {patience} "
                f"is better than epoch {best_epoch(results).epoch}; to train it further pass a "
                "larger patience, or 0, or start a new run from its weights",
                argument="patience",
            )
        raise RunCompleteError(
            f"{folder.path} is complete, all {epochs} epochs; raise its number of epochs, "
            "or start a new run from its weights"
        )
    return results


def _class_map(folder: RunFolder, results: Sequence[EpochResult]) -> tuple[float, ...] | None:
    """Return the class mAPs that the next epoch's draw of images depends on."""
    validated = [result.epoch for result in results if result.scores is not None]
    if not validated:
        return None
    if (found := read_class_map(folder.log, validated[-1])) is None:
        raise ConfigError(
            f"{folder.log} has no class_map of epoch {validated[-1]}, on which the images of the "
            "next epoch depend: the run cannot be resumed exactly; start a new one"
        )
    return found


def _is_newer(path: Path, other: Path) -> bool:
    """Return whether a file was written after another; a resumed run has an older detector."""
    return path.exists() and path.stat().st_mtime_ns >= other.stat().st_mtime_ns
