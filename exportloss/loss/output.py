"""What a detection loss returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

__all__ = ["LossOutput"]


class LossOutput(NamedTuple):
    """Result of a loss for one batch.

    Attributes:
        loss: Scalar to minimise, the sum of the terms multiplied by the batch size.
        terms: (number of terms,) loss terms with their gains, before that multiplication, detached.
        state: State tensors for the next step, by name; empty for a loss without state.
    """

    loss: Tensor
    terms: Tensor
    state: Mapping[str, Tensor]
