"""Stopping of endless work: the first Ctrl-C asks for it, the second one interrupts."""

from __future__ import annotations

import contextlib
import signal
from types import FrameType
from typing import Any

__all__ = ["Stopping"]


class Stopping:
    """Context in which the first Ctrl-C or SIGTERM is only recorded.

    A recorded SIGTERM is raised again at the end of the block.

    Attributes:
        asked: Whether a signal was recorded.
    """

    def __init__(self) -> None:
        self.asked = False
        self._terminated = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        with contextlib.suppress(ValueError):  # only the main thread handles signals
            for number in (signal.SIGINT, signal.SIGTERM):
                # Shells make background jobs ignore it.
                if callable(before := signal.getsignal(number)):
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        if kind is None and self._terminated:
            signal.raise_signal(signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            self._before[number](number, frame)
        self.asked = True
        self._terminated |= number == signal.SIGTERM
