"""`exportloss train --distributed`: the same command in every process, each with its role."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import exportloss
from exportloss.cli.terminal import say
from exportloss.cli.train.report import Plan
from exportloss.distributed.agreement import DismissedError, agree, as_of_rank, check_equal
from exportloss.distributed.communicator import Communicator
from exportloss.distributed.distributable import distributable
from exportloss.distributed.follower import follow
from exportloss.distributed.leader import Leader
from exportloss.distributed.nccl import NcclCommunicator
from exportloss.runtime.artifact.manifest import MANIFEST_NAME
from exportloss.runtime.data.capacity import Overflow
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.training.origin import data_digest, file_digest
from exportloss.runtime.training.steps import EpochSteps

__all__ = ["Ready", "train_on_ranks"]

_FAILED = 2  # exit status


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ready:
    """A training that is ready to begin on this rank.

    Attributes:
        session: Open session.
        plan: Batches and schedule.
        overflow: As for `train`.
        device: This rank's device.
        nccl: The package `nccl.core`, to send vectors by it; None to send them by MPI.
    """

    session: TrainSession
    plan: Plan
    overflow: Overflow
    device: str
    nccl: Any = None

    def by_nccl(self, communicator: Communicator) -> Communicator:
        """Return the ranks, with vectors by NCCL if that is wanted; all ranks call this."""
        if self.nccl is None:
            return communicator
        try:
            return NcclCommunicator(communicator, device=self.device, core=self.nccl)
        except Exception as error:  # the others wait for this rank inside NCCL
            say(f"exportloss: {as_of_rank(error, communicator)}", error=True)
            communicator.abort(_FAILED)
            raise


def train_on_ranks(
    communicator: Communicator, prepare: Callable[[], tuple[Ready, Callable[[EpochSteps], int]]]
) -> int:
    """Prepare on every rank; if all agree, train on all, led by rank 0.

    Args:
        communicator: The ranks.
        prepare: Function that returns the training and, for rank 0, what carries it out and
            returns the exit status.

    Returns:
        The exit status.

    Raises:
        SystemExit: on ranks other than 0: the training failed, and rank 0 reports it.
        ExportLossError: on rank 0.
    """
    with _silent(communicator.rank > 0):
        try:
            ready, carry_out = agree(communicator, prepare)
            agree(communicator, lambda: distributable(ready.session))
            check_equal(communicator, agree(communicator, lambda: _digests(ready)))
        except DismissedError:
            raise SystemExit(_FAILED) from None
        if communicator.rank:
            return _follow(communicator, ready)
    say(f"the batches of each update are computed by as many as {communicator.size} processes")
    with Leader(ready.by_nccl(communicator)) as leader:
        try:
            return carry_out(leader)
        except BaseException as error:
            if leader.in_round:  # all end at once, before anyone could report it
                say(f"exportloss: {as_of_rank(error, communicator)}", error=True)
            raise


def _follow(communicator: Communicator, ready: Ready) -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; rank 0 tells when to stop
    plan = ready.plan
    try:
        went_well = follow(
            ready.by_nccl(communicator),
            distributable(ready.session),
            plan.train,
            plan.schedule,
            overflow=ready.overflow,
        )
    except BaseException as error:  # without this rank the others would wait for ever
        say(f"exportloss: {as_of_rank(error, communicator)}", error=True)
        communicator.abort(_FAILED)
        raise
    if not went_well:
        raise SystemExit(_FAILED)
    return 0


def _digests(ready: Ready) -> dict[str, str]:
    schedule = repr((ready.plan.schedule, ready.plan.train.augment, ready.overflow))
    return {
        "version of exportloss": exportloss.__version__,
        "artifacts": file_digest(ready.session.folder / MANIFEST_NAME),
        "training data": data_digest(ready.plan.train),
        "options": hashlib.sha256(schedule.encode()).hexdigest(),
    }


@contextlib.contextmanager
def _silent(wanted: bool) -> Iterator[None]:
    """Drop what is printed, except errors: every rank would print the same."""
    if not wanted:
        yield
        return
    devnull = Path(os.devnull)
    with devnull.open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
