"""The moving average of the weights that YOLOv5 keeps beside those that it trains (EMA)."""

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
    """YOLOv5's decay in an update: 0.9999 * (1 - exp(-updates / 2000)).

    It begins near 0, so that the average leaves the first weights quickly.

    Args:
        updates: optimizer steps done, this one included, >= 1.

    Returns:
        The share of the average that stays, in [0, 1).
    """
    return -_DECAY * math.expm1(-updates / _RAMP)


def move_average(average: Mapping[str, Array], values: Mapping[str, Array], decay: float) -> None:
    """Move an average toward values, in place: average += (1 - decay) * (value - average).

    Args:
        average: by name.
        values: at least those of the same names.
        decay: share of the average that stays, in [0, 1].
    """
    share = np.float32(1) - np.float32(decay)  # as the portable step has it
    for name, tensor in average.items():
        np.add(tensor, share * (values[name] - tensor), out=tensor)
