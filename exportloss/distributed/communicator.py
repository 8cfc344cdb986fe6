"""What data parallel training needs of the processes that take part in it."""

from __future__ import annotations

from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = ["Communicator", "Distributed", "Vector"]

Distributed = Literal["mpi", "nccl"]
Vector = npt.NDArray[np.float32]
_Value = TypeVar("_Value")


class Communicator(Protocol):
    """Messages between the processes of a training; rank 0 leads it.

    Every method but `abort` waits for the other processes that take part in the message.
    """

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def size(self) -> int:
        """Number of processes."""

    @property
    def local_rank(self) -> int:
        """Number of this process among those on its machine, from 0."""

    @property
    def local_size(self) -> int:
        """Number of processes on this machine."""

    def gather_all(self, value: _Value) -> list[_Value]:
        """Return the small values of all ranks, in rank order."""

    def broadcast(self, value: _Value | None) -> _Value:
        """Return rank 0's small value; the values of other ranks are ignored."""

    def broadcast_vector(self, vector: Vector) -> None:
        """Overwrite the vector of every rank by rank 0's of the same length."""

    def send_vector(self, vector: Vector) -> None:
        """Send a vector to rank 0."""

    def receive_vector(self, vector: Vector, source: int) -> None:
        """Overwrite a vector, on rank 0, by the one that rank `source` sends."""

    def abort(self, status: int) -> None:
        """End all processes at once, this one included, with an exit status."""
