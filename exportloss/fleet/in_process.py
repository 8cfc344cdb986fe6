"""Devices in the server's own process, one after the other: for tests and simulations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from exportloss.errors import ExportLossError
from exportloss.fleet.messages import Answer, Result, Task

__all__ = ["InProcess"]


class InProcess:
    """A `Network` of functions.

    Args:
        devices: What each device does with a task, such as `Node.handle`.
    """

    def __init__(self, devices: Sequence[Callable[[Task], Result]]) -> None:
        self._devices = devices

    def nodes(self) -> Sequence[int]:
        """Return the devices' positions."""
        return range(len(self._devices))

    def ask(self, task: Task, nodes: Sequence[int], seconds: float) -> Iterator[Answer]:
        """Ask one after the other; an error of ours is an answer. There is no time limit."""
        for node in nodes:
            try:
                yield Answer(node=node, result=self._devices[node](task))
            except ExportLossError as error:
                yield Answer(node=node, result=str(error))
