"""Ending work that has no end of its own: the first Ctrl-C asks, the second one breaks off."""

from __future__ import annotations

import contextlib
import signal
from types import FrameType
from typing import Any

__all__ = ["Stopping"]


class Stopping:
    """While it is entered, the first Ctrl-C or SIGTERM is only noted.

    After a SIGTERM that was noted, the end of the block does what it would have done before.

    Attributes:
        asked: whether one came.
    """

    def __init__(self) -> None:
        self.asked = False
        self._terminated = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        with contextlib.suppress(ValueError):  # not in the main thread, whose business signals are
            for number in (signal.SIGINT, signal.SIGTERM):
                # A shell lets what runs in the background ignore it.
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
