"""Progress of a run: a bar on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from exportloss.cli.terminal import Terminal
from exportloss.runtime.sessions.session import LossTerms
from exportloss.runtime.training.epoch import Reporter
from exportloss.runtime.training.results import EpochResult
from exportloss.runtime.training.schedule import Schedule
from exportloss.system import resident_bytes

__all__ = ["report"]

_MOST_WAITING = 0.05  # fraction of the time from which on it is reported


@contextlib.contextmanager
def report(schedule: Schedule, *, epochs_done: int = 0) -> Iterator[Reporter]:
    """Yield the reporter of a run; the bar, if any, ends with the block."""
    console = Terminal(soft_wrap=True)
    if not console.is_terminal:
        yield Lines(console, schedule)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),  # the rest of the line
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[memory]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        done = epochs_done * schedule.batches
        task = progress.add_task(
            "starting", total=schedule.epochs * schedule.batches, completed=done, rate="", memory=""
        )
        yield Bar(console, schedule, progress, task)


class Lines:
    """Reporter that prints a line per epoch."""

    def __init__(self, console: Terminal, schedule: Schedule) -> None:
        self._console = console
        self._schedule = schedule

    def batch_done(self, epoch: int, done: int, items: LossTerms, lr: float) -> None:
        """Do nothing."""

    def batch_skipped(self, epoch: int, done: int, loss: float, paths: Sequence[Path]) -> None:
        """Print a warning that names the images."""
        self._console.print(
            f"warning: epoch {epoch}, batch {done} was skipped: its loss, {loss}, or its gradients "
            f"are not finite ({', '.join(map(str, paths))})",
        )

    def start_done(self, result: EpochResult) -> None:
        """Print the detector's scores before training."""
        parts = [
            "start",
            "" if result.val is None else f"val {_losses(result.val)}",
            "" if result.scores is None else result.scores.summary(),
        ]
        self._console.print("  ".join(part for part in parts if part))

    def epoch_done(self, result: EpochResult, is_best: bool) -> None:
        """Print the losses and scores of the epoch."""
        images = self._schedule.batches * self._schedule.batch_size
        parts = [
            _title(result.epoch, self._schedule),
            _losses(result.train),
            "" if result.val is None else f"val {_losses(result.val)}",
            "" if result.scores is None else result.scores.summary(),
            f"lr {result.lr[0]:.4g}",
            f"{images / max(result.seconds, 1e-9):.1f} images/s",
            f"{result.left_out} boxes skipped" if result.left_out else "",
            f"{result.skipped} batches skipped" if result.skipped else "",
            _waiting(result.waiting),
            "best" if is_best else "",
        ]
        self._console.print("  ".join(part for part in parts if part))


class Bar(Lines):
    """Reporter that prints a line per epoch above a bar for the whole run."""

    def __init__(
        self, console: Terminal, schedule: Schedule, progress: Progress, task: TaskID
    ) -> None:
        super().__init__(console, schedule)
        self._progress = progress
        self._task = task

    def batch_done(self, epoch: int, done: int, items: LossTerms, lr: float) -> None:
        """Move the bar."""
        speed = self._progress.tasks[self._task].speed  # batches per second
        rate = f"{speed * self._schedule.batch_size:.1f}/s" if speed else ""
        losses = " ".join(f"{name} {value:.3f}" for name, value in items.items())
        title = _title(epoch, self._schedule)
        self._progress.update(
            self._task,
            advance=1,
            rate=rate,
            memory=_memory(),
            description=f"{title} {losses} lr {lr:.2g}",
        )


def _title(epoch: int, schedule: Schedule) -> str:
    return f"epoch {epoch}/{schedule.epochs - 1}"  # counted from 0, as in results.csv


def _waiting(fraction: float) -> str:
    if fraction <= _MOST_WAITING:
        return ""
    return f"waited {fraction:.0%} of the time for images (--cache ram or more --workers may help)"


def _memory() -> str:
    """Return the resident memory of this process; empty if it is unknown."""
    held = resident_bytes()
    return "" if held is None else f"{held / 1e9:.2f} GB"


def _losses(items: LossTerms) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in items.items())
