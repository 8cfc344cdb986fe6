"""Slots in the same cell, whose values are combined before they are written.

Several slots may lie in one cell, so the values they write to its boxes have to be combined. The
last slot in a cell stands for all of them: a table of all cells says which it is, and the values
are combined in a scatter over the slots, which are far fewer than the boxes of the maps.

A reducing scatter has no fixed order on a GPU, and TensorRT does not support it. So there is
another form, pair by pair: all slots of a cell get the same numbers, and a plain scatter gives the
same bits in any order of writing. The cost is a comparison of every two slots of a level.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from exportloss.loss.matching import Slots

__all__ = ["SharedCells", "write_equals"]


@dataclasses.dataclass(frozen=True)
class SharedCells:
    """Slots in the same cell of the same image, for K = S * M slots per level.

    Attributes:
        last: (nl, K) int64, last slot in each slot's cell; (K,) for one level.
        same: (nl, K, K) bool, whether two slots share a cell; (K, K) for one level. None to combine
            values with scatters.
    """

    last: Tensor
    same: Tensor | None = None

    @classmethod
    def of(
        cls, slots: Slots, grids: Sequence[tuple[int, int]], *, pairwise: bool, batch_size: int
    ) -> SharedCells:
        """Compare the slots of each level.

        Args:
            slots: Candidate matches, as `match` returns them.
            grids: Rows and columns of cells, (H, W), per level.
            pairwise: Whether to combine values pair by pair.
            batch_size: Images per batch.
        """
        cells = torch.stack([slots.image.new_full((1,), height * width) for height, width in grids])
        place = ((slots.image * cells)[:, None] + slots.cell).flatten(1)  # (nl, K)
        # As floats, which are exact for any number of slots: few devices compute integer maxima.
        slot = torch.arange(place.shape[1], dtype=torch.float32, device=place.device)
        if pairwise:
            same = place[:, :, None] == place[:, None]
            return cls(torch.where(same, slot, 0.0).amax(dim=-1).long(), same)
        sizes = [batch_size * math.prod(grid) for grid in grids]
        firsts = [place.new_full((1,), sum(sizes[:level])) for level in range(len(sizes))]
        place = (place + torch.stack(firsts)).flatten()
        table = torch.zeros(sum(sizes), device=place.device)
        table = table.scatter_reduce(0, place, slot.repeat(len(grids)), "amax")
        return cls(table.index_select(0, place).long().reshape(len(grids), -1))

    def of_level(self, level: int) -> SharedCells:
        """Return the shared cells of one level."""
        return SharedCells(self.last[level], None if self.same is None else self.same[level])

    def last_boxes(self, na: int) -> Tensor:
        """Return the last slot of each slot's box, among those of all levels.  # (nl, na, K)"""
        *_, count = self.last.shape
        first = torch.arange(self.last.numel() // count * na, device=self.last.device) * count
        return self.last.unsqueeze(-2) + first.reshape(*self.last.shape[:-1], na, 1)

    def largest(self, values: Tensor) -> Tensor:
        """For each slot, return the largest value in its box.

        Args:
            values: (nl, na, S, M), >= 0.
        """
        if self.same is None:
            by_box = self.largest_at_last(values).flatten()
            last = self.last_boxes(values.shape[1]).flatten()
            return by_box.index_select(0, last).reshape(values.shape)
        others = values.flatten(2)[:, :, None]  # (nl, na, 1, K)
        return torch.where(self.same[:, None], others, 0.0).amax(dim=-1).reshape(values.shape)

    def largest_at_last(self, values: Tensor) -> Tensor:
        """For the last slot of each box, return the largest value in the box; 0 for others.

        Args:
            values: (nl, na, S, M), >= 0.
        """
        if self.same is None:
            flat, last = values.flatten(), self.last_boxes(values.shape[1]).flatten()
            return (
                torch.zeros_like(flat).scatter_reduce(0, last, flat, "amax").reshape(values.shape)
            )
        count = self.last.shape[1]
        is_last = self.last == torch.arange(count, device=self.last.device)  # (nl, K)
        is_last = is_last.reshape(-1, 1, *values.shape[2:])
        return torch.where(is_last, self.largest(values), 0.0)

    def read(self, rows: Tensor) -> Tensor:
        """Return rows of boxes, whose gradients the last slot of a box gets for all of them.

        Slots that share a box have read the same numbers, so this is a matter of where the sum of
        their gradients is formed: where `combined` takes it from.

        Args:
            rows: (nl, na, S, M, C).
        """
        if self.same is not None or torch.compiler.is_exporting():
            return rows
        last = self.last_boxes(rows.shape[1]).flatten()
        apply: Callable[[Tensor, Tensor], Tensor] = _SumAtLast.apply
        return apply(rows.reshape(-1, rows.shape[-1]), last).reshape(rows.shape)

    def combined(self, rows: Tensor) -> Tensor:
        """For each slot of one level, return the sum of the gradients in its cell.

        Args:
            rows: (..., K, C), finite; without pairs, as `read` forms them.
        """
        return rows.index_select(-2, self.last) if self.same is None else self.total(rows)

    def total(self, rows: Tensor) -> Tensor:
        """For each slot of one level, return the sum of the rows in its cell, pair by pair.

        Args:
            rows: (..., K, C), finite.
        """
        assert self.same is not None
        totals = self.same.to(rows.dtype) @ rows
        # Equal rows of a product may be rounded differently: all slots of a cell take the last one.
        return totals.index_select(-2, self.last)


class _SumAtLast(torch.autograd.Function):
    """Rows as they are, with the gradients of a box summed in its last row."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, last: Tensor) -> Tensor:
        ctx.save_for_backward(last)
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (last,), (rows,) = ctx.saved_tensors, gradients
        index = last[:, None].expand(rows.shape)
        return torch.zeros_like(rows).scatter_add(0, index, rows), None


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
