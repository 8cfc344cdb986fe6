"""MPI, by mpi4py and whatever MPI is installed."""

from __future__ import annotations

from typing import Any, TypeVar

from exportloss.distributed.communicator import Vector
from exportloss.errors import InstallationError
from exportloss.runtime.sessions.installation import how_to_install

__all__ = ["MpiCommunicator"]

_Value = TypeVar("_Value")


class MpiCommunicator:
    """All processes that `mpiexec` started, see `Communicator`.

    Raises:
        InstallationError: mpi4py or an MPI library is not installed.
    """

    def __init__(self) -> None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError) as error:  # RuntimeError: it finds no MPI library
            raise InstallationError(
                f"distributed='mpi' needs mpi4py and an MPI library: {error}; "
                f"{how_to_install('mpi')}, or install mpi4py for the MPI of this machine",
                argument="distributed",
            ) from error
        world: Any = MPI.COMM_WORLD
        self._world = world
        self._type = MPI.FLOAT
        self.rank: int = world.Get_rank()
        self.size: int = world.Get_size()
        machine = world.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank: int = machine.Get_rank()
        self.local_size: int = machine.Get_size()

    def gather_all(self, value: _Value) -> list[_Value]:
        """Return the small values of all ranks, in rank order."""
        values: list[_Value] = self._world.allgather(value)
        return values

    def broadcast(self, value: _Value | None) -> _Value:
        """Return rank 0's small value."""
        found: _Value = self._world.bcast(value, root=0)
        return found

    def broadcast_vector(self, vector: Vector) -> None:
        """Overwrite the vector of every rank by rank 0's."""
        self._world.Bcast([vector, self._type], root=0)

    def send_vector(self, vector: Vector) -> None:
        """Send a vector to rank 0."""
        self._world.Send([vector, self._type], dest=0)

    def receive_vector(self, vector: Vector, source: int) -> None:
        """Overwrite a vector, on rank 0, by the one that rank `source` sends."""
        self._world.Recv([vector, self._type], source=source)

    def abort(self, status: int) -> None:
        """End all processes at once."""
        self._world.Abort(status)
