"""Parameters as float16 differences, with error feedback: half the bytes to send."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, TrainingError

__all__ = ["add_difference", "take_difference"]

Array = npt.NDArray[np.float32]
Half = npt.NDArray[np.float16]


def take_difference(new: Array, old: Array, residual: Array | None = None) -> tuple[Half, Array]:
    """Return `new - old` in float16, and what rounding lost of it.

    What was lost is kept by the sender and added to its next difference (error feedback, arXiv
    1901.09847), so that small changes get through in time.

    Args:
        new: (P,) parameters to send.
        old: (P,) parameters that the receiver has.
        residual: (P,) what the last difference lost; None for nothing.

    Returns:
        The difference (P,) and the new residual (P,).

    Raises:
        TrainingError: a parameter differs by more than float16 holds, 65504.
    """
    exact = new - old if residual is None else new - old + residual
    with np.errstate(over="ignore"):
        sent = exact.astype(np.float16)
    if not np.isfinite(sent).all():
        raise TrainingError(
            f"a parameter differs by {np.abs(exact).max():g}, more than float16 holds; train with "
            "a lower lr, or send float32"
        )
    return sent, exact - sent.astype(np.float32)


def add_difference(old: Array, difference: Half) -> Array:
    """Return the parameters that were sent as a difference.

    Raises:
        ArtifactError: the difference has another shape or type, or is not finite.
    """
    if difference.dtype != np.float16 or difference.shape != old.shape:
        raise ArtifactError(
            f"the difference is {difference.dtype} of shape {difference.shape}; expected float16 "
            f"of shape {old.shape}"
        )
    if not np.isfinite(difference).all():
        raise ArtifactError("the difference has values that are not finite")
    return old + difference.astype(np.float32)
