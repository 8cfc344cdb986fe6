"""Scalars of a run for TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from exportloss.runtime.sessions.session import LossTerms
from exportloss.runtime.training.epoch import Reporter
from exportloss.runtime.training.event_file import EventFile
from exportloss.runtime.training.results import EpochResult

__all__ = ["WithEvents"]


class WithEvents:
    """Reporter that forwards to another one, and writes every epoch to an event file."""

    def __init__(self, reporter: Reporter, events: EventFile) -> None:
        self._reporter = reporter
        self._events = events

    def batch_done(self, epoch: int, done: int, items: LossTerms, lr: float) -> None:
        """Forward."""
        self._reporter.batch_done(epoch, done, items, lr)

    def batch_skipped(self, epoch: int, done: int, loss: float, paths: Sequence[Path]) -> None:
        """Forward."""
        self._reporter.batch_skipped(epoch, done, loss, paths)

    def start_done(self, result: EpochResult) -> None:
        """Forward."""
        self._reporter.start_done(result)

    def epoch_done(self, result: EpochResult, is_best: bool) -> None:
        """Forward, and write the epoch to the event file."""
        self._reporter.epoch_done(result, is_best)
        self._events.add(result)
