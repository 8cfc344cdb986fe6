"""What can be trained by several ranks, and each rank's part of the machine."""

from __future__ import annotations

import os

from exportloss.config import LossConfig
from exportloss.distributed.communicator import Communicator
from exportloss.errors import ArtifactError, ConfigError
from exportloss.runtime.sessions.portable_step import PortableTrainSession
from exportloss.runtime.sessions.providers import PROVIDERS
from exportloss.runtime.sessions.session import TrainSession

__all__ = ["device_of_rank", "distributable", "threads_of_rank"]


def distributable(session: TrainSession) -> PortableTrainSession:
    """Return the session, if its batches can be computed apart from each other.

    Raises:
        ArtifactError: the artifacts are no portable step, or lack `apply_step.onnx`.
        ConfigError: the loss balances its levels, by each batch for the next one.
    """
    folder, manifest = session.folder, session.manifest
    if not isinstance(session, PortableTrainSession):
        raise ArtifactError(
            f"{folder} holds a {manifest.kind!r} artifact; several processes train only a portable "
            "step: export in format 'step'",
            argument="format",
        )
    if "apply_step.onnx" not in manifest.files:
        raise ArtifactError(
            f"{folder} has no apply_step.onnx, because an earlier version exported it; export "
            "again to train it with several processes"
        )
    if isinstance(manifest.loss, LossConfig) and manifest.loss.autobalance:
        raise ConfigError(
            f"{folder} was exported with autobalance, where the loss of a batch depends on the "
            "batch before it; export without it, or train with one process"
        )
    return session


def device_of_rank(device: str, communicator: Communicator) -> str:
    """Return a rank's device: of a kind that a machine can have several of, one each."""
    is_indexed = device in PROVIDERS and PROVIDERS[device].indexed  # `cuda`, but not `cuda:1`
    if not is_indexed or communicator.local_size == 1:
        return device
    return f"{device}:{communicator.local_rank}"


def threads_of_rank(threads: int | None, communicator: Communicator) -> int | None:
    """Return the threads of a rank's engine: as given, or an equal part of the cores."""
    if threads is not None or communicator.local_size == 1:
        return threads
    return max((os.cpu_count() or 1) // communicator.local_size, 1)
