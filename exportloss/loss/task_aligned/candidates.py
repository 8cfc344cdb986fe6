"""Target rows in pixels, and the cells whose centre lies inside them."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from exportloss.loss.task_aligned.boxes import Boxes
from exportloss.loss.task_aligned.grid import Grid
from exportloss.task_aligned_config import AssignmentProfile

__all__ = ["TargetBoxes", "find_candidates", "runs_here"]

_SMALLEST_DISTANCE = 1e-9  # of a cell's centre from the sides of a box that contains it
_BELOW_LAST_BIN = 1.01  # the largest distance that two bins can express, below their number


@dataclasses.dataclass(frozen=True)
class TargetBoxes:
    """Target rows, M of them.

    Attributes:
        image: (M,) int64 index of the image.
        category: (M,) int64 class.
        exists: (M,) bool, false for padded rows, and for a centre at the image's corner (0, 0).
        boxes: (M, 1) boxes in pixels.
    """

    image: Tensor
    category: Tensor
    exists: Tensor
    boxes: Boxes

    @classmethod
    def of(
        cls, targets: Tensor, *, batch_size: int, num_classes: int, image_size: tuple[int, int]
    ) -> TargetBoxes:
        """Read rows (M, 6); one that `pad_targets` would refuse does not exist."""
        in_range = (targets >= 0).all(dim=1) & (targets[:, 2:] <= 1).all(dim=1)  # false for NaN
        in_range = in_range & (targets[:, 0] < batch_size) & (targets[:, 1] < num_classes)
        # Before any conversion to integers: for NaN and out-of-range numbers devices differ.
        targets = torch.where(in_range[:, None], targets, 0.0)
        height, width = image_size
        x, y = targets[:, 2:3] * width, targets[:, 3:4] * height  # (M, 1)
        half_w, half_h = targets[:, 4:5] * width / 2, targets[:, 5:6] * height / 2
        x1, y1, x2, y2 = x - half_w, y - half_h, x + half_w, y + half_h
        return cls(
            image=targets[:, 0].long(),
            category=targets[:, 1].long(),
            exists=((x1 + x2) + (y1 + y2) > 0)[:, 0],
            boxes=Boxes.of_corners(x1, y1, x2, y2),
        )

    def without_padding(self) -> TargetBoxes:
        """Drop the rows after the last that exists; at least one row is left.

        Each row costs as much as a used one, since it meets all cells. Where shapes must not depend
        on data, and where looking at data would wait for a device, all rows are kept.
        """
        if not runs_here(self.exists):
            return self
        return self.rows(0, int(self.exists.nonzero()[-1:].sum()) + 1)

    def rows(self, start: int, count: int) -> TargetBoxes:
        """Return up to `count` rows from `start` on."""
        stop = start + count
        image, category, exists = (
            values[start:stop] for values in (self.image, self.category, self.exists)
        )
        return TargetBoxes(
            image, category, exists, self.boxes.map(lambda values: values[start:stop])
        )


def runs_here(values: Tensor) -> bool:
    """Return whether torch computes with a tensor now, on a CPU, and makes no graph of the code.

    Then shapes may depend on data, and values are in memory.
    """
    is_plain = type(values) is Tensor and values.device.type == "cpu"
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return is_plain and not traced


def find_candidates(
    targets: TargetBoxes, grid: Grid, *, profile: AssignmentProfile, reg_max: int
) -> Tensor:
    """Return which cells may learn which target row.

    A box is an interval of columns and one of rows, so the comparisons are made per column and per
    row, and combined per cell.

    Args:
        targets: Target rows, M of them.
        grid: Cells of all levels, A of them.
        profile: Edges of the assignment.
        reg_max: Bins per distance.

    Returns:
        (M, A) bool.
    """
    boxes = targets.boxes
    x, y = (boxes.x1, boxes.x2), (boxes.y1, boxes.y2)
    if profile == "8.4":
        x, y = (_at_least(*side, grid.strides[1]) for side in (x, y))
    levels = []
    for (height, width), stride in zip(grid.sizes, grid.strides, strict=True):
        limit = (reg_max - _BELOW_LAST_BIN) * stride if profile == "yolov9" else None
        columns = _inside(*x, cells=width, stride=stride, limit=limit)  # (M, W)
        rows = _inside(*y, cells=height, stride=stride, limit=limit)  # (M, H)
        levels.append((rows[:, :, None] & columns[:, None]).flatten(1))
    return torch.cat(levels, dim=1) & targets.exists[:, None]


def _at_least(low: Tensor, high: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Widen intervals to a length, around their middle."""
    middle, half = (low + high) / 2, (high - low).clamp(min=float(side)) / 2
    return middle - half, middle + half


def _inside(low: Tensor, high: Tensor, *, cells: int, stride: int, limit: float | None) -> Tensor:
    """Return which centres of cells lie between low and high (M, 1).  # (M, cells)"""
    centre = (torch.arange(cells, dtype=low.dtype, device=low.device) + 0.5) * stride
    before, behind = centre - low, high - centre
    if limit is None:
        return (before > _SMALLEST_DISTANCE) & (behind > _SMALLEST_DISTANCE)
    nearest, farthest = torch.minimum(before, behind), torch.maximum(before, behind)
    return (nearest >= 0) & (farthest <= limit)
