"""The ranks other than 0: compute their batches, and know nothing of the run's folder."""

from __future__ import annotations

import contextlib

import numpy as np

from exportloss.distributed.communicator import Communicator
from exportloss.distributed.contribution import Computed, compute
from exportloss.distributed.messages import (
    EpochBegins,
    Report,
    RoundBegins,
    Stop,
    first_error,
    report_of,
)
from exportloss.distributed.rounds import batches_of, plan_rounds
from exportloss.runtime.data.capacity import Overflow
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.sessions.portable_step import PortableTrainSession
from exportloss.runtime.training.schedule import Schedule

__all__ = ["follow"]


def follow(
    communicator: Communicator,
    session: PortableTrainSession,
    batches: Batches,
    schedule: Schedule,
    *,
    overflow: Overflow,
) -> bool:
    """Compute this rank's batches until rank 0 ends the training.

    Args:
        communicator: The ranks; this is not rank 0.
        session: Session of the same artifacts as rank 0's; its weights are overwritten by those.
        batches: The same training batches as rank 0's; only this rank's images are decoded.
        schedule: The same schedule.
        overflow: As for `train`.

    Returns:
        True if the training ended well; False after an error, which rank 0 reports.
    """
    while True:
        message: EpochBegins | Stop = communicator.broadcast(None)
        if isinstance(message, Stop):
            return not message.failed
        end = _follow_epoch(communicator, session, batches, schedule, message, overflow=overflow)
        if end is not None:
            return not end.failed


def _follow_epoch(
    communicator: Communicator,
    session: PortableTrainSession,
    batches: Batches,
    schedule: Schedule,
    begun: EpochBegins,
    *,
    overflow: Overflow,
) -> Stop | None:
    """Compute the batches of an epoch; return the end of the training, if it ends meanwhile."""
    rounds = plan_rounds(schedule.steps(begun.epoch), communicator.size)
    own = batches_of(rounds, communicator.rank)
    weights = session.read_vector("parameters")
    epoch = batches.epoch(begun.epoch, class_map=begun.class_map, only=own)
    with contextlib.closing(epoch) as stream:
        for one in rounds:
            message: RoundBegins | Stop = communicator.broadcast(None)
            if isinstance(message, Stop):
                return message
            if one.is_new:
                communicator.broadcast_vector(weights)
                session.write_vector("parameters", weights)
            report: Report = None
            vector = np.zeros(0, np.float32)
            if communicator.rank < len(one.plans):
                report, vector = report_of(
                    lambda: compute(session, next(stream), overflow), communicator
                )
            if first_error(communicator.gather_all(report)) is not None:
                return Stop(failed=True)
            if isinstance(report, Computed) and not report.result.skipped:
                communicator.send_vector(vector)
    return None
