"""The places of the largest values of each row, the first of equals first, on every device."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["largest_places"]


@torch.library.custom_op("exportloss::largest_places", mutates_args=())
def largest_places(values: Tensor, count: int) -> Tensor:
    """Return the places of the largest values of each row, largest first.

    `torch.topk` leaves open which of several equal values it takes. Here the value's bits, which
    order non-negative floats, and the place make one integer, of which no two are equal.

    Args:
        values: (M, A) float32, >= 0.
        count: Number of places per row, 1 to A.

    Returns:
        (M, count) int64.
    """
    size = values.shape[1]
    backwards = torch.arange(size - 1, -1, -1, device=values.device)
    # -0.0 has the bits of a large integer; adding 0 makes it 0.
    keys = (values.float() + 0.0).view(torch.int32).long() * size + backwards
    return size - 1 - keys.topk(count, dim=1).values % size


@largest_places.register_fake
def _(values: Tensor, count: int) -> Tensor:
    return values.new_empty((values.shape[0], count), dtype=torch.int64)
