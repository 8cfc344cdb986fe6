"""Exponential moving average (EMA) of the weights, as YOLOv5 keeps it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["decay_after", "move_average"]

Array = npt.NDArray[np.float32]

_DECAY = 0.9999
_RAMP = 2000  # updates


def decay_after(updates: int) -> float:
    """Return YOLOv5's decay in an update: 0.9999 * (1 - exp(-updates / 2000)).

    The decay begins near 0, so that the average leaves the initial weights quickly.

    Args:
        updates: Optimizer steps done, including this one, >= 1.

    Returns:
        The fraction of the average that an update keeps, in [0, 1).
    """
    return -_DECAY * math.expm1(-updates / _RAMP)


def move_average(average: Mapping[str, Array], values: Mapping[str, Array], decay: float) -> None:
    """Move an average toward values, in place: average += (1 - decay) * (value - average).

    Args:
        average: Average by name.
        values: Values by name; names without an average are ignored.
        decay: Fraction of the average that is kept, in [0, 1].
    """
    fraction = np.float32(1) - np.float32(decay)  # in float32, as in the portable step
    for name, tensor in average.items():
        np.add(tensor, fraction * (values[name] - tensor), out=tensor)
