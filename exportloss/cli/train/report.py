"""Reports of `exportloss train`, before training and after it."""

from __future__ import annotations

import dataclasses
from typing import Any

from exportloss.cli.data_report import print_split
from exportloss.cli.terminal import say
from exportloss.cli.train.options import TrainOptions
from exportloss.errors import listed
from exportloss.runtime.data.capacity import drops_boxes
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.training.hyp import unused_keys
from exportloss.runtime.training.results import best_epoch
from exportloss.runtime.training.schedule import MIN_WARMUP, Schedule
from exportloss.runtime.training.trainer import TrainResult

__all__ = ["Plan", "print_data", "print_plan", "print_result"]

_LISTED = 20  # problems with the data
_SAMPLED = 100  # batches from which the filling of mosaics is estimated


@dataclasses.dataclass(frozen=True)
class Plan:
    """Batches and schedule of a run.

    Attributes:
        train: Batches of the training split.
        val: Batches of the validation split; None without one.
        schedule: Schedule of the training.
    """

    train: Batches
    val: Batches | None
    schedule: Schedule


def print_plan(plan: Plan, hyp: dict[str, Any]) -> None:
    """Print the numbers of images, epochs and batches."""
    schedule = plan.schedule
    validation = (
        "no validation split" if plan.val is None else f"{len(plan.val.dataset)} to validate"
    )
    say(
        f"{len(plan.train.dataset)} images to train on, {validation}; {schedule.epochs} epochs "
        f"of {schedule.batches} batches of {schedule.batch_size}, an update every "
        f"{_batches(min(schedule.accumulate, schedule.batches))}"
    )
    if schedule.warmup_covers_run:
        say(
            f"warning: warm-up takes {schedule.warmup_batches} batches (as in YOLOv5, "
            f"{MIN_WARMUP} at least) and the run has {schedule.epochs * schedule.batches}: it "
            "never trains at its full rate; train for more epochs"
        )
    if unused := unused_keys(hyp):
        say(f"note: augmentations that this version does not do: {', '.join(unused)}")


def print_data(plan: Plan, max_targets: int, options: TrainOptions) -> None:
    """Print a summary of the data, its skipped images, and how full batches are."""
    for split, batches in (("train", plan.train), ("val", plan.val)):
        if batches is None:
            continue
        print_split(split, batches)
        if batches.left_out:
            say(
                f"warning: bad images skipped: {batches.skipped}\n  "
                + listed(batches.left_out, _LISTED, "\n  ")
            )
    if plan.train.most_images > 1 and drops_boxes(plan.train, options.overflow):
        counts = plan.train.target_counts(0, batches=_SAMPLED)
        lost = sum(max(count - max_targets, 0) for count in counts) / max(sum(counts), 1)
        say(
            f"mosaics make batches of {min(counts)} to {max(counts)} boxes, {max_targets} fit: "
            + (
                f"{lost:.1%} are skipped, the smallest; export with --max-targets {max(counts)} "
                "to keep about all"
                if lost
                else "none is skipped"
            )
        )


def print_result(result: TrainResult) -> None:
    """Print the best result of the run, and its files."""
    folder = result.folder
    best = result.best
    worth = f"loss {best.loss:.4f}"
    if best.scores is not None:
        worth = f"{best.scores.summary(', ')}, {worth}"
    if result.stopped_early:
        waited = result.epochs[-1].epoch - best_epoch(result.epochs).epoch
        say(f"stopped early, {waited} epochs after the best (--patience)")
    if best.is_start:
        say(f"best: the start, {worth}; {result.updates} updates")
        say(_no_better(result))
    else:
        say(f"best: epoch {best.epoch}, {worth}; {result.updates} updates")
    for path in (folder.results, folder.last, folder.best, folder.last_onnx, folder.best_onnx):
        say(f"  {path}")


def _no_better(result: TrainResult) -> str:
    """Return a warning that names the best epoch, if none is better than the start."""
    runner_up = best_epoch(result.epochs)
    scores = runner_up.scores
    reached = "" if scores is None else f" ({scores.summary(', ')})"
    return (
        f"warning: no epoch made the detector better; the nearest was epoch {runner_up.epoch}"
        f"{reached}. {result.folder.best_onnx.name} is the detector that you started from: train "
        "for more epochs, with a lower lr0, weaker augmentation or more data"
    )


def _batches(count: int) -> str:
    return "batch" if count == 1 else f"{count} batches"
