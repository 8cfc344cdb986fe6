"""Values of slots in the same cell, combined pair by pair before they are written.

Several slots may lie in one cell, so the values they write to its boxes have to be combined. A
reducing scatter does so, but in no fixed order on a GPU, and TensorRT does not support it. If the
values are combined first, all slots of a cell hold the same numbers, and a plain scatter gives the
same bits in any order of writing. The cost is a comparison of every two slots of a level.
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
    """Slots in the same cell of the same image, for K = S * M slots per level.

    Attributes:
        same: (nl, K, K) bool, whether two slots share a cell; (K, K) for one level.
        last: (nl, K) int64, last slot in each slot's cell; (K,) for one level.
    """

    same: Tensor
    last: Tensor

    @classmethod
    def of(cls, slots: Slots, grids: Sequence[tuple[int, int]]) -> SharedCells:
        """Compare the slots of each level.

        Args:
            slots: Candidate matches, as `match` returns them.
            grids: Rows and columns of cells, (H, W), per level.
        """
        cells = torch.stack([slots.image.new_full((1,), height * width) for height, width in grids])
        place = (slots.image * cells)[:, None] + slots.cell  # (nl, S, M)
        place = place.flatten(1)
        same = place[:, :, None] == place[:, None]
        # As floats, which are exact for any number of slots: few devices compute integer maxima.
        slot = torch.arange(place.shape[1], dtype=torch.float32, device=place.device)
        return cls(same, torch.where(same, slot, 0.0).amax(dim=-1).long())

    def of_level(self, level: int) -> SharedCells:
        """Return the shared cells of one level."""
        return SharedCells(self.same[level], self.last[level])

    def largest(self, values: Tensor) -> Tensor:
        """For each slot, return the largest value in its cell.

        Args:
            values: (nl, na, S, M), >= 0.
        """
        others = values.flatten(2)[:, :, None]  # (nl, na, 1, K)
        return torch.where(self.same[:, None], others, 0.0).amax(dim=-1).reshape(values.shape)

    def total(self, rows: Tensor) -> Tensor:
        """For each slot of one level, return the sum of the rows in its cell.

        Args:
            rows: (..., K, C), finite.
        """
        totals = self.same.to(rows.dtype) @ rows
        # Equal rows of a product may be rounded differently: all slots of a cell take the last one.
        return totals.index_select(-2, self.last)


def write_equals(size: int, index: Tensor, values: Tensor) -> Tensor:
    """Return zeros with values written to them; equal indices must have equal values.

    Args:
        size: Length of the result.
        index: (K,) int64 below `size`.
        values: (K,) values to write.
    """
    # TensorRT rejects more indices than places.
    places = values.new_zeros(max(size, len(index)))
    return places.scatter(0, index, values)[:size]
