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
        image: (M,) int64 index of the image; 0 for padded rows.
        category: (M,) int64 class; 0 for padded rows.
        cell: (nl, S, M) int64 index of the cell among the level's H * W.
        weight: (nl, na, S, M) float, number of YOLOv5's matches that the slot stands for; 0 for
            no match.
        order: (nl, 1, S, M) float >= 1, place of the slot's last match in YOLOv5's order, a whole
            number.
        centre: (2, nl, 1, S, M) float, x and y relative to the cell, in cells.
        side: (2, nl, 1, 1, M) float, width and height in cells, > 0; 1 for padded rows.
    """

    image: Tensor
    category: Tensor
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
    sides = torch.stack([_sides(targets, grid) for grid in grids])  # (nl, 2, 1), in cells
    limits = _limits(targets, batch_size, num_classes)
    in_range = ((targets >= 0) & (targets < limits)).all(dim=1)  # (M,), false for NaN
    # Before any conversion to integers: for NaN and out-of-range numbers devices differ.
    targets = torch.where(in_range[:, None], targets, 0.0)
    position, size = (targets[:, 2:].t().reshape(1, 2, 2, -1) * sides[:, None]).unbind(1)

    ratio = size[:, None] / anchors[..., None]  # (nl, na, 2, M)
    fits = torch.maximum(ratio, torch.reciprocal(ratio)).amax(dim=2) < anchor_t  # (nl, na, M)

    before, behind = _chosen_neighbours(position, sides)  # (nl, 2, M)
    both = (before & behind).to(targets.dtype)
    either = (before | behind).to(targets.dtype)
    multiplicity = torch.cat((both.sum(dim=1, keepdim=True) + 1, either), dim=1)  # (nl, S, M)

    # Places in YOLOv5's order: 0 own, 1 left, 2 top, 3 right, 4 bottom. If two opposite neighbours
    # are chosen, the own cell also stands for the second, which comes later.
    left_and_top = torch.arange(1, 3, dtype=targets.dtype, device=targets.device)[:, None]
    right_and_bottom = left_and_top + 2
    own = (both * right_and_bottom).amax(dim=1, keepdim=True)
    place = torch.cat((own, torch.where(before, left_and_top, right_and_bottom)), dim=1)
    count = targets.shape[0]
    order = place * count + torch.arange(1, count + 1, dtype=place.dtype, device=place.device)

    slot = torch.arange(3, device=targets.device)[:, None]  # own cell, x and y neighbour
    shifted = slot == torch.arange(1, 3, device=targets.device)[:, None, None]  # (2, S, 1)
    shift = before.to(targets.dtype) * (-2 * _NEIGHBOUR_BIAS) + _NEIGHBOUR_BIAS
    reached = position[:, :, None] + shift[:, :, None] * shifted.to(targets.dtype)
    # Positions are not negative, and a map has fewer cells than a float has whole numbers.
    corner = torch.floor(torch.minimum(reached, sides[:, :, None] - 1))  # (nl, 2, S, M)
    x, y = corner.unbind(1)

    image, category = targets[:, :2].long().unbind(1)
    return Slots(
        image=image,
        category=category,
        cell=(y * sides[:, :1] + x).long(),
        weight=multiplicity[:, None] * fits[:, :, None].to(targets.dtype),
        order=order[:, None],
        centre=(position[:, :, None] - corner).transpose(0, 1)[:, :, None],
        side=torch.where(size > 0, size, 1.0).transpose(0, 1)[:, :, None, None],
    )


def _sides(like: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the columns and rows of cells of a level, constants of the graph.  # (2, 1)"""
    height, width = grid
    return torch.stack((like.new_full((1,), width), like.new_full((1,), height)))


def _limits(like: Tensor, batch_size: int, num_classes: int) -> Tensor:
    """Return the numbers that those of a target row must be below.  # (6,)"""
    above_one = 1 + torch.finfo(like.dtype).eps
    sizes = (batch_size, num_classes, *(above_one,) * 4)
    return torch.cat([like.new_full((1,), size) for size in sizes])


def _chosen_neighbours(position: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether the neighbours before and behind are trained too; never outside the image."""
    from_edges = torch.cat((position, sides - position), dim=1)  # (nl, 4, M)
    within = from_edges - torch.floor(from_edges)
    before, behind = torch.split((within < _NEIGHBOUR_BIAS) & (from_edges > 1), 2, dim=1)
    return before, behind
