"""What slots of one cell have in common, combined pair by pair before it is written.

Several slots may lie in one cell, so whatever they write to its boxes has to be combined. A
scatter that reduces does it, but in no fixed order on a GPU, and TensorRT has none. Combined
beforehand, all slots of a cell hold the same numbers, and a plain scatter gives the same bits in
whatever order a device writes them. The price is a comparison of all slots of a level with each
other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from exportloss.loss.matching import Slots

__all__ = ["SharedCells", "write_equals"]


@dataclasses.dataclass(frozen=True)
class SharedCells:
    """Which slots lie in the same cell of the same image, K = S * M slots per level.

    Attributes:
        same: (nl, K, K) bool, or (K, K) of one level.
        last: (nl, K) int64, or (K,) of one level: the last slot of each slot's cell.
    """

    same: Tensor
    last: Tensor

    @classmethod
    def of(cls, slots: Slots, grids: Sequence[tuple[int, int]]) -> SharedCells:
        """Compare the slots of each level.

        Args:
            slots: as `match` returns them.
            grids: rows and columns of cells, (H, W), per level.
        """
        cells = torch.stack([slots.image.new_full((1,), height * width) for height, width in grids])
        place = (slots.image * cells)[:, None] + slots.cell  # (nl, S, M)
        place = place.flatten(1)
        same = place[:, :, None] == place[:, None]
        # As floats, exact far beyond any number of slots: few devices find maxima of integers.
        slot = torch.arange(place.shape[1], dtype=torch.float32, device=place.device)
        return cls(same, torch.where(same, slot, 0.0).amax(dim=-1).long())

    def of_level(self, level: int) -> SharedCells:
        """Return those of one level."""
        return SharedCells(self.same[level], self.last[level])

    def largest(self, values: Tensor) -> Tensor:
        """For each slot, return the largest value of its cell.

        Args:
            values: (nl, na, S, M), >= 0.
        """
        others = values.flatten(2)[:, :, None]  # (nl, na, 1, K)
        return torch.where(self.same[:, None], others, 0.0).amax(dim=-1).reshape(values.shape)

    def total(self, rows: Tensor) -> Tensor:
        """For each slot of one level, return the sum of the rows of its cell.

        Args:
            rows: (..., K, C), finite.
        """
        totals = self.same.to(rows.dtype) @ rows
        # A product may round one row unlike its equal: all slots of a cell take the same row.
        return totals.index_select(-2, self.last)


def write_equals(size: int, index: Tensor, values: Tensor) -> Tensor:
    """Return zeros with values written to them, where equal indices have equal values.

    Args:
        size: length of the result.
        index: (K,) int64 below `size`.
        values: (K,)
    """
    # TensorRT takes no more indices than there are places.
    places = values.new_zeros(max(size, len(index)))
    return places.scatter(0, index, values)[:size]
