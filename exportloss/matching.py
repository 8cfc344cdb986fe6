"""Target building with fixed shapes: which cells and anchors each target row trains."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

__all__ = ["Slots", "match"]

# How far from a cell's edge a centre may lie for the neighbour behind it to be trained too.
_NEIGHBOUR_BIAS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slots:
    """Candidate matches of one level: S = 3 slots (own cell, x and y neighbour) a target row.

    YOLOv5 knows five slots (own, left, top, right, bottom), of which at most three differ: left
    and right are both chosen only where the centre lies exactly on a cell border, and one of them
    then truncates back to the own cell. Three slots with multiplicities are the same rows.

    Attributes:
        row: (S, na, M) int64, index of the prediction among all B * na * H * W of the level.
        weight: (S, na, M) float, how many of YOLOv5's rows the slot stands for; 0 is no match.
        order: (S, 1, M) int64 >= 1, place of the slot's last row in YOLOv5's order of rows.
        box: (S, 1, M, 4) float, centre relative to the cell, width and height, in cells.
    """

    row: Tensor
    weight: Tensor
    order: Tensor
    box: Tensor


def match(
    targets: Tensor,
    anchors: Tensor,
    *,
    batch_size: int,
    grid: tuple[int, int],
    num_classes: int,
    anchor_t: float,
) -> Slots:
    """Match target rows with the anchors and cells of one level.

    No prediction is looked at and no shape depends on data. A row of zero size matches nothing,
    so zero rows are padding; neither does a row that `pad_targets` would refuse.

    Args:
        targets: (M, 6) image, class, x, y, width, height; the last four as shares of the picture.
        anchors: (na, 2) width and height in cells of this level.
        batch_size: pictures in the batch.
        grid: rows and columns of cells, (H, W).
        num_classes: classes of the model.
        anchor_t: largest ratio between a target's and an anchor's side, exclusive.
    """
    height, width = grid
    na = anchors.shape[0]
    image, category = targets[:, 0].long(), targets[:, 1].long()  # (M,)
    in_range = (image >= 0) & (image < batch_size) & (category >= 0) & (category < num_classes)
    centre = targets[:, 2:4]
    in_range = in_range & ((centre >= 0) & (centre <= 1)).all(dim=1)  # false for NaN
    x, y = targets[:, 2] * width, targets[:, 3] * height  # (M,), in cells
    size = torch.stack((targets[:, 4] * width, targets[:, 5] * height), dim=1)  # (M, 2)

    ratio = size / anchors[:, None]  # (na, M, 2)
    fits = (torch.maximum(ratio, 1 / ratio) < anchor_t).all(dim=2) & in_range  # (na, M)

    left, right = _chosen_neighbours(x, width)
    top, bottom = _chosen_neighbours(y, height)
    both_x, both_y = left & right, top & bottom
    own_column, own_row = _cell(x, width), _cell(y, height)
    shift_x = torch.where(left, x - _NEIGHBOUR_BIAS, x + _NEIGHBOUR_BIAS)
    shift_y = torch.where(top, y - _NEIGHBOUR_BIAS, y + _NEIGHBOUR_BIAS)
    column = torch.stack((own_column, _cell(shift_x, width), own_column))  # (S, M)
    row = torch.stack((own_row, own_row, _cell(shift_y, height)))

    multiplicity = torch.stack(
        (1 + both_x.long() + both_y.long(), (left | right).long(), (top | bottom).long())
    )
    # Places in YOLOv5's order: 0 own, 1 left, 2 top, 3 right, 4 bottom. The own cell also stands
    # for the second of two opposite neighbours, which comes later.
    zero = torch.zeros_like(image)
    place = torch.stack(
        (
            torch.where(both_y, zero + 4, torch.where(both_x, zero + 3, zero)),
            torch.where(left, zero + 1, zero + 3),
            torch.where(top, zero + 2, zero + 4),
        )
    )
    slots = targets.shape[0]
    order = place * slots + torch.arange(1, slots + 1, device=targets.device)

    plane = image.clamp(0, batch_size - 1) * na + torch.arange(na, device=targets.device)[:, None]
    return Slots(
        row=(plane * (height * width))[None] + (row * width + column)[:, None],
        weight=(multiplicity[:, None] * fits).to(targets.dtype),
        order=order[:, None],
        box=torch.stack(
            (x - column, y - row, size[:, 0].expand(3, -1), size[:, 1].expand(3, -1)), dim=2
        )[:, None],
    )


def _chosen_neighbours(position: Tensor, cells: int) -> tuple[Tensor, Tensor]:
    """Whether the neighbour before and behind is trained too; none outside the picture."""
    from_far_edge = cells - position
    before = (position - torch.floor(position) < _NEIGHBOUR_BIAS) & (position > 1)
    behind = (from_far_edge - torch.floor(from_far_edge) < _NEIGHBOUR_BIAS) & (from_far_edge > 1)
    return before, behind


def _cell(position: Tensor, cells: int) -> Tensor:
    return position.long().clamp(0, cells - 1)
