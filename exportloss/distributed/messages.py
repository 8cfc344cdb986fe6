"""Messages between rank 0 and the ranks that it leads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from exportloss.distributed.agreement import as_of_rank
from exportloss.distributed.communicator import Communicator, Vector
from exportloss.distributed.contribution import Computed
from exportloss.errors import ExportLossError

__all__ = ["EpochBegins", "Report", "RoundBegins", "Stop", "first_error", "report_of"]

Report = Computed | ExportLossError | None  # None: the rank has no batch in the round


@dataclasses.dataclass(frozen=True, kw_only=True)
class EpochBegins:
    """Rank 0 begins an epoch.

    Attributes:
        epoch: Number of the epoch, from 0.
        class_map: (nc,) mAP50-95 of each class at the last validation; None before the first.
    """

    epoch: int
    class_map: Sequence[float] | None


@dataclasses.dataclass(frozen=True)
class RoundBegins:
    """Rank 0 begins the next round of the epoch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stop:
    """The training has ended.

    Attributes:
        failed: Whether it ended with an error, which rank 0 reports.
    """

    failed: bool


def report_of(
    work: Callable[[], tuple[Computed, Vector]], communicator: Communicator
) -> tuple[Computed | ExportLossError, Vector]:
    """Compute a batch; return its error, if it has one, in place of its result."""
    try:
        return work()
    except Exception as error:
        return as_of_rank(error, communicator), np.zeros(0, np.float32)


def first_error(reports: Sequence[Report]) -> ExportLossError | None:
    """Return the error of the lowest rank that has one."""
    return next((one for one in reports if isinstance(one, ExportLossError)), None)
