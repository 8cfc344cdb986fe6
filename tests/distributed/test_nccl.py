"""Vectors by NCCL, with a stand-in for NCCL and GPUs: which buffer goes where, and when."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from exportloss import ConfigError, InstallationError
from exportloss.distributed import nccl
from exportloss.distributed.nccl import NcclCommunicator, check_nccl
from tests.support.messages import mentions
from tests.support.threads_as_ranks import ThreadCommunicator, run_ranks


def array(buffer) -> np.ndarray:
    """The memory that a buffer's description leads to."""
    about = buffer.__cuda_array_interface__
    pointer = ctypes.cast(about["data"][0], ctypes.POINTER(ctypes.c_float))
    return np.ctypeslib.as_array(pointer, about["shape"])


class PretendedNccl:
    """`nccl.core.Communicator` on the host's memory."""

    def __init__(self, ranks: ThreadCommunicator) -> None:
        self.ranks = ranks

    def broadcast(self, sent, received, root: int) -> None:
        assert root == 0
        self.ranks.broadcast_vector(array(received))

    def send(self, buffer, peer: int) -> None:
        assert peer == 0
        self.ranks.send_vector(array(buffer))

    def recv(self, buffer, peer: int) -> None:
        self.ranks.receive_vector(array(buffer), peer)


def test_vectors_reach_the_ranks_that_they_are_for(monkeypatch):
    import onnxruntime

    class PretendedDevice:
        index = 1
        kind = "cuda"

        @classmethod
        def parse(cls, name: str) -> PretendedDevice:
            return cls()

        def empty(self, ort, shape, dtype):
            return onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype))

    monkeypatch.setattr(nccl, "Device", PretendedDevice)
    monkeypatch.setattr(nccl, "import_engine", lambda device: None)
    chosen = []
    cuda = SimpleNamespace(
        Device=lambda index: SimpleNamespace(set_current=lambda: chosen.append(index))
    )

    def work(ranks: ThreadCommunicator) -> list[float]:
        core = SimpleNamespace(
            get_unique_id=lambda: SimpleNamespace(as_bytes=b"id"),
            UniqueId=SimpleNamespace(from_bytes=lambda text: text),
            Communicator=SimpleNamespace(
                init=lambda size, rank, shared: PretendedNccl(ranks) if shared == b"id" else None
            ),
        )
        by_nccl = NcclCommunicator(ranks, device="cuda:1", core=core, cuda=cuda)
        weights = np.full(4, 1.0 + ranks.rank, np.float32)
        by_nccl.broadcast_vector(weights)
        if by_nccl.rank:
            by_nccl.send_vector(weights * by_nccl.rank)
            return weights.tolist()
        total = []
        for source in range(1, by_nccl.size):
            vector = np.empty(4, np.float32)
            by_nccl.receive_vector(vector, source)
            total.append(vector[0])
        return total

    assert run_ranks(3, work) == [[1.0, 2.0], [1.0] * 4, [1.0] * 4]
    assert chosen == [1, 1, 1]


def test_what_nccl_needs_is_named(monkeypatch):
    with pytest.raises(ConfigError, match=mentions("nccl", "cpu")) as caught:
        check_nccl("cpu")
    assert caught.value.argument == "distributed"
    monkeypatch.setitem(sys.modules, "nccl", None)
    with pytest.raises(InstallationError, match=mentions("nccl4py", "[nccl]")):
        check_nccl("cuda:1")
