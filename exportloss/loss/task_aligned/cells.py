"""Reading the maps: bins and one class where a target is learned, and all classes everywhere.

The gradient of a map is then dense in its classes and sparse in its bins. It is written once, by
one operator, as `exportloss.loss.map_gradient` writes that of YOLOv5's maps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from exportloss.loss.graph_ops import log1p
from exportloss.loss.task_aligned.grid import Grid

__all__ = ["LevelCells", "class_map_gradient", "read_maps", "softplus_sum"]


@dataclasses.dataclass(frozen=True)
class LevelCells:
    """Where the S slots read a level's map, and whose gradient they write there.

    A slot whose cell is on another level looks at some cell of this one. Every slot writes the
    gradient of the slot that learns in the cell it looks at, so that all writes to a place are
    equal, and their order does not matter.

    Attributes:
        index: (S, 4 R + 1) int64 places in the flat map, of all bins and of one class.
        is_here: (S,) bool, whether the slot's cell is on this level.
        writer: (S,) int64 slot that learns in the cell looked at; S if none does.
    """

    index: Tensor
    is_here: Tensor
    writer: Tensor

    @classmethod
    def of_levels(
        cls,
        grid: Grid,
        *,
        image: Tensor,
        cell: Tensor,
        learns: Tensor,
        category: Tensor,
        batch_size: int,
        num_classes: int,
        reg_max: int,
    ) -> list[LevelCells]:
        """Locate slots on every level.

        Args:
            grid: Cells of all levels, A of them.
            image: (S,) int64 image of each slot.
            cell: (S,) int64 cell of each slot, among A.
            learns: (S,) bool, whether the slot learns; at most one per cell does.
            category: (S,) int64 class of each slot.
            batch_size, num_classes, reg_max: Sizes of the maps.
        """
        slots, cells, bins = len(cell), grid.cells, 4 * reg_max
        place = image * cells + cell
        # Slots that do not learn write to one more place, which nobody reads. TensorRT rejects more
        # indices than places.
        places = max(batch_size * cells + 1, slots)
        nobody = torch.full((places,), slots, device=cell.device)
        learner = nobody.scatter(
            0,
            torch.where(learns, place, batch_size * cells),
            torch.arange(slots, device=cell.device),
        )
        classes = torch.cat((category, category.new_zeros(1)))
        channels = torch.arange(bins, device=cell.device).expand(slots, -1)
        levels = []
        for (height, width), offset in zip(grid.sizes, grid.offsets, strict=True):
            size = height * width
            inner = cell - offset
            here = inner.clamp(min=0).clamp(max=size - 1)
            writer = learner.index_select(0, image * cells + (here + offset))
            channel = torch.cat((channels, classes.index_select(0, writer)[:, None] + bins), dim=1)
            plane = image[:, None] * (bins + num_classes) + channel
            levels.append(cls(plane * size + here[:, None], inner == here, writer))
        return levels


def read_maps(
    maps: Sequence[Tensor], levels: Sequence[LevelCells], *, reg_max: int
) -> tuple[Tensor, Tensor]:
    """Read the logits that the loss needs.

    Args:
        maps: (B, 4 R + nc, H, W) logits, one map per level.
        levels: Where to read each.
        reg_max: Bins per distance, R.

    Returns:
        rows: (S, 4 R + 1) logits of the bins, and of one class, of each slot's cell. Only those of
            slots that learn receive gradients.
        background: Sum of log(1 + exp(x)) over all class logits x, a scalar: the cross-entropy of
            all of them with 0.
    """
    if torch.compiler.is_exporting():  # gradient builders know elementary operators only
        background = torch.stack([_softplus(x[:, 4 * reg_max :]).sum() for x in maps]).sum()
        return _read_rows(maps, levels), background
    tensors = [t for cells in levels for t in (cells.index, cells.is_here, cells.writer)]
    read: Callable[..., tuple[Tensor, Tensor]] = _ReadMaps.apply
    return read(4 * reg_max, len(maps), *maps, *tensors)


def _read_rows(maps: Sequence[Tensor], levels: Sequence[LevelCells]) -> Tensor:
    rows: Tensor | None = None
    for level, cells in zip(maps, levels, strict=True):
        read = level.flatten().index_select(0, cells.index.flatten()).reshape(cells.index.shape)
        rows = read if rows is None else torch.where(cells.is_here[:, None], read, rows)
    assert rows is not None
    return rows


def _softplus(x: Tensor) -> Tensor:
    positive = torch.relu(x)
    return positive + log1p(torch.exp(x - 2 * positive))


class _ReadMaps(torch.autograd.Function):
    """`read_maps`, with the gradient of each map written by one operator."""

    @staticmethod
    def forward(ctx: Any, bins: int, count: int, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        maps, rest = tensors[:count], tensors[count:]
        levels = [LevelCells(*rest[i : i + 3]) for i in range(0, len(rest), 3)]
        ctx.save_for_backward(*maps, *(t for cells in levels for t in (cells.index, cells.writer)))
        ctx.bins, ctx.count = bins, count
        background = torch.stack([softplus_sum(level, bins) for level in maps]).sum()
        return _read_rows(maps, levels), background

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (rows, background), count = gradients, ctx.count
        maps, rest = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        padded = functional.pad(rows, (0, 0, 0, 1))  # the writer S writes zeros
        written = [
            class_map_gradient(
                level, background, rest[2 * i], padded.index_select(0, rest[2 * i + 1]), ctx.bins
            )
            for i, level in enumerate(maps)
        ]
        return None, None, *written, *(None for _ in range(3 * count))


@torch.library.custom_op("exportloss::softplus_sum", mutates_args=())
def softplus_sum(level: Tensor, first: int) -> Tensor:
    """Return the sum of log(1 + exp(x)) over the channels of a map from `first` on, a scalar.

    Args:
        level: (B, C, H, W).
        first: First channel.
    """
    # Image by image on a CPU, whose caches then hold the intermediate results.
    parts = torch.split(level, 1) if level.device.type == "cpu" else (level,)
    return torch.stack([functional.softplus(part[:, first:]).sum() for part in parts]).sum()


@softplus_sum.register_fake
def _(level: Tensor, first: int) -> Tensor:
    return level.new_empty(())


@torch.library.custom_op("exportloss::class_map_gradient", mutates_args=())
def class_map_gradient(
    level: Tensor, scale: Tensor, index: Tensor, rows: Tensor, first: int
) -> Tensor:
    """Compute the gradient of a map from those of `read_maps`.

    Args:
        level: (B, C, H, W) map.
        scale: Gradient of the background, a scalar.
        index: (S, first + 1) int64 places in the flat map that were read; equal ones have equal
            gradients.
        rows: (S, first + 1) gradients of those places.
        first: Channels of bins; the others are classes.

    Returns:
        Gradient of the shape of `level`: sigmoid(level) * scale in the classes and 0 in the bins,
        plus the gradient of the read places.
    """
    gradient = torch.empty_like(level, memory_format=torch.contiguous_format)
    gradient[:, :first] = 0
    for logits, part in zip(level[:, first:], gradient[:, first:], strict=True):
        torch.sigmoid(logits, out=part)
        part.mul_(scale)
    flat = gradient.view(-1)
    values = rows + functional.pad(flat[index[:, first:]], (first, 0))
    flat.index_put_((index.flatten(),), values.flatten())
    return gradient


@class_map_gradient.register_fake
def _(level: Tensor, scale: Tensor, index: Tensor, rows: Tensor, first: int) -> Tensor:
    return torch.empty_like(level, memory_format=torch.contiguous_format)
