"""Which rank computes which batch of an epoch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from exportloss.runtime.training.schedule import PlannedStep

__all__ = ["Round", "batches_of", "plan_rounds"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """Batches that are computed at the same time, one by each of the first ranks.

    Attributes:
        first: Number of the first batch, which is rank 0's; the next is rank 1's, and so on.
        plans: Settings of the batches; all have the same weights, those of the last update.
        is_new: Whether the weights have changed since the round before.
    """

    first: int
    plans: tuple[PlannedStep, ...]
    is_new: bool


def plan_rounds(steps: Sequence[PlannedStep], ranks: int) -> tuple[Round, ...]:
    """Divide the steps of an epoch into rounds of at most `ranks` batches.

    A round never goes beyond an update: the batches after it need its weights.
    """
    rounds: list[Round] = []
    waiting: list[PlannedStep] = []
    is_new = True
    for number, step in enumerate(steps):
        waiting.append(step)
        if step.update or len(waiting) == ranks:
            first = number + 1 - len(waiting)
            rounds.append(Round(first=first, plans=tuple(waiting), is_new=is_new))
            waiting, is_new = [], step.update
    return tuple(rounds)


def batches_of(rounds: Sequence[Round], rank: int) -> list[int]:
    """Return the numbers of a rank's batches."""
    return [one.first + rank for one in rounds if rank < len(one.plans)]
