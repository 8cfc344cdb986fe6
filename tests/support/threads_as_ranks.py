"""Ranks that are threads of one process, which send each other messages as MPI's do."""

from __future__ import annotations

import pickle
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

_Value = TypeVar("_Value")
_Result = TypeVar("_Result")
PATIENCE = 60  # seconds after which a message counts as lost


class AbortedError(Exception):
    """A rank has ended all."""


class _Shared:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.values: list[bytes] = [b""] * size
        self.sent: list[queue.Queue[np.ndarray]] = [queue.Queue() for _ in range(size)]
        self.vector: np.ndarray = np.zeros(0)
        self.status: int | None = None


class ThreadCommunicator:
    """A rank, see `Communicator`; values are pickled, as between processes."""

    def __init__(self, rank: int, shared: _Shared) -> None:
        self.rank, self.size = rank, len(shared.values)
        self.local_rank, self.local_size = self.rank, self.size
        self._shared = shared

    def gather_all(self, value: _Value) -> list[_Value]:
        self._shared.values[self.rank] = pickle.dumps(value)
        self._wait()
        values = [pickle.loads(one) for one in self._shared.values]
        self._wait()
        return values

    def broadcast(self, value: _Value | None) -> _Value:
        found: Any = self.gather_all(value if self.rank == 0 else None)[0]
        return found

    def broadcast_vector(self, vector: np.ndarray) -> None:
        if self.rank == 0:
            self._shared.vector = vector.copy()
        self._wait()
        np.copyto(vector, self._shared.vector)
        self._wait()

    def send_vector(self, vector: np.ndarray) -> None:
        self._shared.sent[self.rank].put(vector.copy())

    def receive_vector(self, vector: np.ndarray, source: int) -> None:
        np.copyto(vector, self._shared.sent[source].get(timeout=PATIENCE))

    def abort(self, status: int) -> None:
        self._shared.status = status
        self._shared.barrier.abort()
        raise AbortedError(status)

    def _wait(self) -> None:
        try:
            self._shared.barrier.wait(PATIENCE)
        except threading.BrokenBarrierError as error:
            raise AbortedError(self._shared.status) from error


def run_ranks(size: int, work: Callable[[ThreadCommunicator], _Result]) -> list[Any]:
    """Run `work` on every rank; return the result or the exception of each."""
    shared = _Shared(size)
    results: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadCommunicator(rank, shared))
        except BaseException as error:
            results[rank] = error

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a rank waits for ever"
    return results
