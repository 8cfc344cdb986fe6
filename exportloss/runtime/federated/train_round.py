"""Local training of a device within a round."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from exportloss.bounds import at_least
from exportloss.errors import ConfigError, TrainingError
from exportloss.runtime.data.capacity import Overflow, fit_targets
from exportloss.runtime.data.loader import Batch
from exportloss.runtime.sessions.checks.step_checks import Rates
from exportloss.runtime.sessions.session import LossTerms, TrainSession

__all__ = ["RoundResult", "train_round"]

Array = npt.NDArray[np.float32]

_MAX_PROXIMAL = 1000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundResult:
    """Result of `train_round`.

    Attributes:
        images: Number of images trained on, repeats that fill batches not counted.
        batches: Number of steps, skipped ones included.
        skipped: Number of steps that changed nothing.
        items: Mean loss terms of the steps that were not skipped, without the proximal term.
    """

    images: int
    batches: int
    skipped: int
    items: LossTerms


def train_round(
    session: TrainSession,
    batches: Iterable[Batch],
    *,
    lr: Rates,
    momentum: float = 0.937,
    weight_decay: float = 5e-4,
    max_norm: float = 10.0,
    proximal: float = 0.0,
    accumulate: int = 1,
    overflow: Overflow = "auto",
) -> RoundResult:
    """Train on each batch once, from the session's weights, which are the round's global ones.

    With `proximal` every update minimises the loss plus proximal / 2 * |w - w_global|^2 (FedProx,
    arXiv 1812.06127): proximal * (w - w_global) is added to the accumulated gradients before the
    first batch of the update, so the limit `max_norm` applies to the sum.

    Args:
        session: Session to train, of either kind, after `set_weights`.
        batches: Batches; several epochs one after the other are possible.
        lr: Learning rate, as for `TrainSession.step`.
        momentum: As for `TrainSession.step`.
        weight_decay: As for `TrainSession.step`.
        max_norm: As for `TrainSession.step`.
        proximal: Weight of the proximal term, in [0, 1000]; 0 for none (FedAvg).
        accumulate: Number of batches per update, >= 1; the last update may have fewer.
        overflow: Policy for batches with more boxes than the graph takes, as for `train`.

    Raises:
        ConfigError: an argument is out of range, there is no batch, or the session only evaluates.
        TrainingError: every step was skipped, since nothing in it was finite.
        DataError: an image cannot be decoded.
        TooManyTargetsError: a batch has more boxes than the graph takes, with `"raise"`.
    """
    at_least(1, accumulate=accumulate)
    if not 0 <= proximal <= _MAX_PROXIMAL:
        raise ConfigError(
            f"proximal is {proximal}; expected in [0, {_MAX_PROXIMAL:g}]", argument="proximal"
        )
    start = session.weights(share="parameters").tensors if proximal else {}
    terms = session.manifest.loss_kind.terms
    total, done, skipped, images = np.zeros(len(terms)), 0, 0, 0
    added = False  # whether the sum of gradients has the proximal term
    update = True
    for batch, is_last in _with_last(batches):
        done += 1
        update = is_last or done % accumulate == 0
        if proximal and not added:
            session.add_gradients(_pull(session, start, proximal))
        targets, _ = fit_targets(batch, session.manifest, overflow)
        result = session.step(
            batch.images,
            targets,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            max_norm=max_norm,
            update=update,
        )
        added = not update or result.skipped  # a skipped update keeps the sum
        skipped += result.skipped
        if not result.skipped:
            images += batch.count
            total += list(result.items.values())
    if not done:
        raise ConfigError("a round needs at least one batch; got none")
    if skipped == done:
        raise TrainingError(
            f"all {done} steps of the round were skipped: loss or gradients were not finite; train "
            "with a lower lr"
        )
    if added:  # the last update was skipped: drop the sum, which no state holds
        session.load_state(session.state())
    items = LossTerms(*(total / (done - skipped)).tolist(), names=terms)
    if not all(map(math.isfinite, items.values())):
        raise TrainingError("the loss of the round is not finite; train with a lower lr")
    return RoundResult(images=images, batches=done, skipped=skipped, items=items)


def _pull(session: TrainSession, start: Mapping[str, Array], proximal: float) -> dict[str, Array]:
    """Return the gradients of the proximal term."""
    now = session.weights(share="parameters").tensors
    factor = np.float32(proximal)
    return {name: factor * (tensor - start[name]) for name, tensor in now.items()}


def _with_last(batches: Iterable[Batch]) -> Iterable[tuple[Batch, bool]]:
    """Yield each batch with whether it is the last."""
    waiting: list[Batch] = []
    for batch in batches:
        yield from ((one, False) for one in waiting)
        waiting = [batch]
    yield from ((one, True) for one in waiting)
