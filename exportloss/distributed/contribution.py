"""What one batch adds to the gradients and BatchNorm statistics, computed apart from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from exportloss.distributed.communicator import Vector
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.data.capacity import Overflow, fit_targets
from exportloss.runtime.data.loader import Batch
from exportloss.runtime.sessions.portable_step import PortableTrainSession
from exportloss.runtime.sessions.session import StepResult

__all__ = ["Computed", "Totals", "compute"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Computed:
    """Result of a batch without its vectors, small enough to be told to every rank.

    Attributes:
        result: Loss, its terms, and whether the batch is to be skipped.
        batch: The batch; without images unless it is skipped, and may have to be shown.
        dropped: Number of target rows that did not fit the graph.
    """

    result: StepResult
    batch: Batch
    dropped: int


def compute(
    session: PortableTrainSession, batch: Batch, overflow: Overflow
) -> tuple[Computed, Vector]:
    """Compute a batch with the session's weights; gradients and statistics begin at 0.

    A running statistic moves by s * (1 - m) + b * m. From s = 0 it becomes b * m, which can be
    added to any other s later, with the same rounding.

    Args:
        session: Session, whose gradients and statistics are overwritten.
        batch: Batch.
        overflow: As for `train`.

    Returns:
        The result, and (P + S,) gradients and statistics.
    """
    for name in ("gradients", "statistics"):
        session.write_vector(name, np.zeros_like(session.read_vector(name)))
    targets, dropped = fit_targets(batch, session.manifest, overflow)
    pending = session.step(batch.images, targets, lr=0.0, update=False)
    result = StepResult(loss=pending.loss, items=pending.items, skipped=pending.skipped)
    shown = batch if result.skipped else dataclasses.replace(batch, images=batch.images[:0])
    vectors = [session.read_vector(name) for name in ("gradients", "statistics")]
    return Computed(result=result, batch=shown, dropped=dropped), np.concatenate(vectors)


class Totals:
    """Sum of gradients, and running statistics, moved on by one batch after the other.

    Args:
        session: Session whose state they begin with.
    """

    def __init__(self, session: PortableTrainSession) -> None:
        self._session = session
        self._gradients = session.read_vector("gradients")
        self._statistics = session.read_vector("statistics")
        self._kept = np.fromiter(_kept(session.manifest), np.float32, self._statistics.size)

    def add(self, vector: Vector) -> bool:
        """Add what `compute` returned; return False if the sum would not have a finite norm."""
        gradients = self._gradients + vector[: self._gradients.size]
        with np.errstate(over="ignore"):
            is_finite = bool(np.isfinite(np.dot(gradients, gradients)))
        if is_finite:
            self._gradients = gradients
            self._statistics = self._statistics * self._kept + vector[self._gradients.size :]
        return is_finite

    def reset_gradients(self) -> None:
        """Start a new sum."""
        self._gradients = np.zeros_like(self._gradients)

    def store(self) -> None:
        """Write both to the session."""
        self._session.write_vector("gradients", self._gradients)
        self._session.write_vector("statistics", self._statistics)


def _kept(manifest: Manifest) -> Iterator[float]:
    """Yield the fraction that a batch keeps of each running statistic, in the flat order."""
    assert manifest.layout is not None
    momentum = {name: n.momentum for n in manifest.statistics for name in (n.mean, n.var)}
    layout = manifest.layout.statistics
    for name, size in zip(layout.names, layout.sizes, strict=True):
        yield from [1 - momentum[name]] * size
