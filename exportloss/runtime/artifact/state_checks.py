"""Checks of a training state, before a session takes it over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, excerpt, listed
from exportloss.runtime.artifact.state import TrainState
from exportloss.runtime.optimizers.table import OPTIMIZERS

__all__ = ["check_same_model", "check_values"]

Tensors = Mapping[str, npt.NDArray[np.float32]]

_MOST_UPDATES = 1 << 31
# Tensors of these names are means of squares, of which a root is taken.
_VARIANCE = ".running_var"
_SQUARES = {
    tensor.name for spec in OPTIMIZERS.values() for tensor in spec.state if tensor.is_square
}


def check_values(state: TrainState, source: str) -> None:
    """Check the values of a state, for any model.

    Args:
        state: State to check.
        source: Name of its origin, for messages.

    Raises:
        ArtifactError: a tensor is not float32 or not finite, a variance is negative, or a number
            of updates is not an integer >= 0.
    """
    for what, count in (("updates", state.updates), ("skipped", state.skipped)):
        if isinstance(count, bool) or not 0 <= int(count) == count < _MOST_UPDATES:
            raise ArtifactError(
                f"{source} has {what} {excerpt(repr(count))}; expected an integer >= 0"
            )
    for what, tensors in _parts(state):
        for name, tensor in tensors.items():
            _check_tensor(tensor, f"{source}: {what} tensor {name!r}", what, name)


def check_same_model(state: TrainState, own: TrainState, source: str) -> None:
    """Check that a state has the tensors of a session, of the same shapes, and no others.

    A moving average is ignored if the session keeps none.

    Args:
        state: State to check.
        own: State of the session.
        source: Name of the state's origin, for messages.

    Raises:
        ArtifactError: a tensor is missing or unknown, or has another shape.
    """
    theirs = dict(_parts(state))
    for what, mine in _parts(own):
        found = theirs.pop(what, {})
        if missing := sorted(mine.keys() - found.keys()):
            raise ArtifactError(
                f"{source} is of another model or kind of training: it lacks {what} tensor "
                f"{listed([repr(name) for name in missing], 1)}"
            )
        if mine and (unknown := sorted(found.keys() - mine.keys())):
            raise ArtifactError(
                f"{source} is of another model or kind of training: it has {what} tensor "
                f"{listed([excerpt(repr(name)) for name in unknown], 1)}, unknown here"
            )
        for name, tensor in mine.items():
            if found[name].shape != tensor.shape:
                raise ArtifactError(
                    f"{source} is of another model: {name} has shape {found[name].shape}, "
                    f"expected {tensor.shape}"
                )
    if theirs:
        raise ArtifactError(
            f"{source} is of another kind of training: it holds {excerpt(next(iter(theirs)))}"
        )


def _parts(state: TrainState) -> Iterator[tuple[str, Tensors]]:
    yield "model", state.model
    yield from state.optimizer.items()
    yield "moving average (EMA)", state.ema
    yield "loss", state.loss


def _check_tensor(tensor: object, where: str, what: str, name: str) -> None:
    if not isinstance(tensor, np.ndarray) or tensor.dtype != np.float32:
        found = getattr(tensor, "dtype", type(tensor).__name__)
        raise ArtifactError(f"{where} is {found}; expected float32")
    if not np.isfinite(tensor).all():
        raise ArtifactError(f"{where} holds values that are not finite")
    if (name.endswith(_VARIANCE) or what in _SQUARES) and (tensor < 0).any():
        raise ArtifactError(f"{where} holds negative values; expected means of squares")
