"""Target building with fixed shapes: which cells and anchors each target row trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Slots", "match"]

# Distance in cells from the cell's edge below which a centre trains the neighbour, too.
_NEIGHBOUR_BIAS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slots:
    """Candidate matches: S = 3 slots per target row and level (own cell, x and y neighbour).

    YOLOv5 has five candidates (own, left, top, right, bottom), of which at most three differ: left
    and right are both chosen only if the centre lies exactly on a cell border, and one of them
    then truncates back to the own cell. Three slots with multiplicities give the same matches.

    Attributes:
        image: (M,) int64 index of the image.
        cell: (nl, S, M) int64 index of the cell among the level's H * W.
        weight: (nl, na, S, M) float, number of YOLOv5's matches that the slot stands for; 0 for
            no match.
        order: (nl, 1, S, M) int64 >= 1, place of the slot's last match in YOLOv5's order.
        centre: (2, nl, 1, S, M) float, x and y relative to the cell, in cells.
        side: (2, nl, 1, 1, M) float, width and height in cells, > 0; 1 for padded rows.
    """

    image: Tensor
    cell: Tensor
    weight: Tensor
    order: Tensor
    centre: Tensor
    side: Tensor


def match(
    targets: Tensor,
    anchors: Tensor,
    *,
    batch_size: int,
    grids: Sequence[tuple[int, int]],
    num_classes: int,
    anchor_t: float,
) -> Slots:
    """Match target rows with the anchors and cells of all levels.

    Predictions are not used, and no shape depends on data. A row of zero size matches nothing, so
    zero rows are padding; nor does a row match that `pad_targets` would refuse.

    Args:
        targets: (M, 6) image, class, x, y, width, height; the last four as fractions of the image.
        anchors: (nl, na, 2) width and height in cells of their level.
        batch_size: Images per batch.
        grids: Rows and columns of cells, (H, W), per level.
        num_classes: Number of classes of the model.
        anchor_t: Limit of the ratio between a target's and an anchor's side, exclusive.
    """
    height, width = (_column(targets, sizes) for sizes in zip(*grids, strict=True))  # (nl, 1)
    in_range = (targets >= 0).all(dim=1) & (targets[:, 2:] <= 1).all(dim=1)  # false for NaN
    in_range = in_range & (targets[:, 0] < batch_size) & (targets[:, 1] < num_classes)  # (M,)
    # Before any conversion to integers: for NaN and out-of-range numbers devices differ.
    targets = torch.where(in_range[:, None], targets, 0.0)
    x, y = targets[:, 2] * width, targets[:, 3] * height  # (nl, M), in cells
    size = torch.stack((targets[:, 4] * width, targets[:, 5] * height))  # (2, nl, M)

    ratio = size[:, :, None] / anchors.permute(2, 0, 1)[..., None]  # (2, nl, na, M)
    fits = (torch.maximum(ratio, 1 / ratio) < anchor_t).all(dim=0)  # (nl, na, M)

    left, right = _chosen_neighbours(x, width)
    top, bottom = _chosen_neighbours(y, height)
    both_x, both_y = left & right, top & bottom
    own_column, own_row = _cell(x, width), _cell(y, height)
    shift_x = torch.where(left, x - _NEIGHBOUR_BIAS, x + _NEIGHBOUR_BIAS)
    shift_y = torch.where(top, y - _NEIGHBOUR_BIAS, y + _NEIGHBOUR_BIAS)
    column = torch.stack((own_column, _cell(shift_x, width), own_column), dim=1)  # (nl, S, M)
    row = torch.stack((own_row, own_row, _cell(shift_y, height)), dim=1)

    multiplicity = torch.stack(
        (1 + both_x.long() + both_y.long(), (left | right).long(), (top | bottom).long()), dim=1
    )
    # Places in YOLOv5's order: 0 own, 1 left, 2 top, 3 right, 4 bottom. If two opposite neighbours
    # are chosen, the own cell also stands for the second, which comes later.
    zero = torch.zeros_like(own_column)
    place = torch.stack(
        (
            torch.where(both_y, zero + 4, torch.where(both_x, zero + 3, zero)),
            torch.where(left, zero + 1, zero + 3),
            torch.where(top, zero + 2, zero + 4),
        ),
        dim=1,
    )
    count = targets.shape[0]
    order = place * count + torch.arange(1, count + 1, device=targets.device)

    return Slots(
        image=targets[:, 0].long(),
        cell=row * width[:, None].long() + column,
        weight=(multiplicity[:, None] * fits[:, :, None]).to(targets.dtype),
        order=order[:, None],
        centre=torch.stack((x[:, None] - column, y[:, None] - row))[:, :, None],
        side=torch.where(size > 0, size, 1.0)[:, :, None, None],
    )


def _column(like: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return constants of the graph, one per level.  # (nl, 1)"""
    return torch.stack([like.new_full((1,), size) for size in sizes])


def _chosen_neighbours(position: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether the neighbours before and behind are trained too; never outside the image."""
    from_far_edge = cells - position
    before = (position - torch.floor(position) < _NEIGHBOUR_BIAS) & (position > 1)
    behind = (from_far_edge - torch.floor(from_far_edge) < _NEIGHBOUR_BIAS) & (from_far_edge > 1)
    return before, behind


def _cell(position: Tensor, cells: Tensor) -> Tensor:
    return torch.minimum(position.long(), cells.long() - 1).clamp(min=0)
