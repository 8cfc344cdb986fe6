"""Rank 0: leads the other ranks through the epochs, adds up what they compute, and updates."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from exportloss.distributed.communicator import Communicator
from exportloss.distributed.contribution import Computed, Totals, compute
from exportloss.distributed.messages import EpochBegins, RoundBegins, Stop, first_error, report_of
from exportloss.distributed.rounds import Round, batches_of, plan_rounds
from exportloss.runtime.data.capacity import Overflow
from exportloss.runtime.data.loader import Batch, Batches
from exportloss.runtime.sessions.portable_step import PortableTrainSession
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.training.schedule import PlannedStep, Schedule
from exportloss.runtime.training.steps import MAX_NORM, DoneStep

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Leader"]

_FAILED = 2  # exit status


class Leader:
    """Steps of an epoch by all ranks, for `train`; a context at whose end the others stop.

    Gradients are added up in the order of the batches, as one process adds them, and never in an
    order that the number of ranks or the network decides. So weights, optimizer state and
    statistics are, bit for bit, those of one process that does the same steps.

    Args:
        communicator: The ranks; this is rank 0.
    """

    def __init__(self, communicator: Communicator) -> None:
        self._ranks = communicator
        self._listening = True  # whether the others wait for a message of rank 0
        self._in_round = False

    @property
    def in_round(self) -> bool:
        """Whether the other ranks may wait for this one, so that they cannot be told to stop."""
        return self._in_round

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._in_round:  # the others may wait for something that never comes
            self._ranks.abort(_FAILED)
        elif self._listening:
            self._ranks.broadcast(Stop(failed=error is not None))

    def __call__(
        self,
        session: TrainSession,
        batches: Batches,
        schedule: Schedule,
        epoch: int,
        *,
        overflow: Overflow,
        class_map: Sequence[float] | None,
    ) -> Generator[DoneStep, None, None]:
        """Yield the steps of an epoch in order; see `EpochSteps`."""
        assert isinstance(session, PortableTrainSession)  # as `check_distributable` has it
        rounds = plan_rounds(schedule.steps(epoch), self._ranks.size)
        own = batches_of(rounds, 0)
        self._ranks.broadcast(EpochBegins(epoch=epoch, class_map=class_map))
        totals = Totals(session)
        with contextlib.closing(batches.epoch(epoch, class_map=class_map, only=own)) as stream:
            for one in rounds:
                for plan, computed in self._compute(session, stream, one, totals, overflow):
                    if plan.update:
                        _update(session, totals, computed, plan, schedule)
                    yield DoneStep(
                        plan=plan,
                        batch=computed.batch,
                        dropped=computed.dropped,
                        result=computed.result,
                    )
        totals.store()

    def _compute(
        self,
        session: PortableTrainSession,
        stream: Generator[Batch],
        one: Round,
        totals: Totals,
        overflow: Overflow,
    ) -> list[tuple[PlannedStep, Computed]]:
        """Compute a round on all ranks and add its batches to the totals, in order."""
        ranks = self._ranks
        ranks.broadcast(RoundBegins())
        self._in_round = True
        if one.is_new:
            ranks.broadcast_vector(session.read_vector("parameters"))
        report, vector = report_of(lambda: compute(session, next(stream), overflow), ranks)
        reports = ranks.gather_all(report)
        if (error := first_error(reports)) is not None:
            self._in_round = self._listening = False  # all leave
            raise error
        done = []
        for rank, (plan, computed) in enumerate(zip(one.plans, reports, strict=False)):
            assert isinstance(computed, Computed)
            # Ranks wait for images at the same time, so only rank 0's waiting counts.
            batch = dataclasses.replace(computed.batch, waited=0.0) if rank else computed.batch
            found = dataclasses.replace(computed, batch=batch)
            if not computed.result.skipped:
                if rank:
                    vector = np.empty_like(vector)
                    ranks.receive_vector(vector, rank)
                if not totals.add(vector):
                    skipped = dataclasses.replace(computed.result, skipped=True)
                    found = dataclasses.replace(found, result=skipped)
            done.append((plan, found))
        self._in_round = False
        return done


def _update(
    session: PortableTrainSession,
    totals: Totals,
    last: Computed,
    plan: PlannedStep,
    schedule: Schedule,
) -> None:
    """Update as the step of the last batch would, which skips the update with itself."""
    totals.store()
    if last.result.skipped:
        session.skip_update()
        return
    session.apply_gradients(
        lr=plan.lr,
        momentum=plan.momentum,
        weight_decay=schedule.weight_decay,
        max_norm=MAX_NORM,
    )
    totals.reset_gradients()
