"""Vectors by NCCL, between NVIDIA GPUs; all other messages by MPI. Not run on GPUs yet."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

from exportloss.distributed.communicator import Communicator, Vector
from exportloss.errors import ConfigError, InstallationError
from exportloss.runtime.sessions.devices import Device, import_engine
from exportloss.runtime.sessions.installation import how_to_install

__all__ = ["NcclCommunicator", "check_nccl"]

_Value = TypeVar("_Value")


def check_nccl(device: str) -> Any:
    """Return the package `nccl.core`.

    Args:
        device: Name of this rank's device.

    Raises:
        ConfigError: the device is no CUDA device.
        InstallationError: nccl4py, or a library that it needs, is not installed.
    """
    if Device.parse(device).kind != "cuda":
        raise ConfigError(
            f"distributed='nccl' needs device='cuda', got {device!r}; pass distributed='mpi'",
            argument="distributed",
        )
    try:
        from nccl import core
    except (ImportError, RuntimeError) as error:  # RuntimeError: it finds no NCCL library
        raise InstallationError(
            f"distributed='nccl' needs nccl4py: {error}; {how_to_install('nccl')}",
            argument="distributed",
        ) from error
    return core


class NcclCommunicator:
    """Ranks with a GPU each, see `Communicator`; vectors are copied to the GPU and sent from there.

    Args:
        messages: The ranks, for everything but vectors.
        device: Name of this rank's device, such as `cuda:1`.
        core: The package `nccl.core`, from `check_nccl`.
        cuda: The package `cuda.core`; None to import it.
    """

    def __init__(self, messages: Communicator, *, device: str, core: Any, cuda: Any = None) -> None:
        if cuda is None:
            from cuda import core as installed

            cuda = installed
        self._messages = messages
        self._device = Device.parse(device)
        self._ort = import_engine(self._device)
        self._buffers: dict[int, _Buffer] = {}
        cuda.Device(self._device.index).set_current()  # NCCL takes the current one
        own = core.get_unique_id().as_bytes if messages.rank == 0 else None
        shared = core.UniqueId.from_bytes(messages.broadcast(own))
        self._nccl = core.Communicator.init(messages.size, messages.rank, shared)

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self._messages.rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return self._messages.size

    @property
    def local_rank(self) -> int:
        """Number of this process among those on its machine, from 0."""
        return self._messages.local_rank

    @property
    def local_size(self) -> int:
        """Number of processes on this machine."""
        return self._messages.local_size

    def gather_all(self, value: _Value) -> list[_Value]:
        """Return the small values of all ranks, in rank order."""
        return self._messages.gather_all(value)

    def broadcast(self, value: _Value | None) -> _Value:
        """Return rank 0's small value."""
        return self._messages.broadcast(value)

    def broadcast_vector(self, vector: Vector) -> None:
        """Overwrite the vector of every rank by rank 0's."""
        buffer = self._buffer(vector.size)
        if self.rank == 0:
            buffer.value.update_inplace(vector)
        self._nccl.broadcast(buffer, buffer, 0)
        if self.rank:
            np.copyto(vector, buffer.value.numpy())

    def send_vector(self, vector: Vector) -> None:
        """Send a vector to rank 0."""
        buffer = self._buffer(vector.size)
        buffer.value.update_inplace(vector)
        self._nccl.send(buffer, 0)

    def receive_vector(self, vector: Vector, source: int) -> None:
        """Overwrite a vector, on rank 0, by the one that rank `source` sends."""
        buffer = self._buffer(vector.size)
        self._nccl.recv(buffer, source)
        np.copyto(vector, buffer.value.numpy())

    def abort(self, status: int) -> None:
        """End all processes at once."""
        self._messages.abort(status)

    def _buffer(self, size: int) -> _Buffer:
        if size not in self._buffers:
            value = self._device.empty(self._ort, (size,), np.float32)
            self._buffers[size] = _Buffer(value, size)
        return self._buffers[size]


class _Buffer:
    """A vector of ONNX Runtime's in a GPU's memory, as CUDA's array interface describes it.

    NCCL works on the default stream, and so do ONNX Runtime's copies, which therefore wait for it.
    """

    def __init__(self, value: Any, size: int) -> None:
        self.value = value
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "<f4",
            "data": (value.data_ptr(), False),
            "strides": None,
            "version": 3,
        }
