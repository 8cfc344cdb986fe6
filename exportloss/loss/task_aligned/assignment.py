"""Task-aligned assignment with fixed shapes: which cell learns which target row, and how much."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from exportloss.loss.task_aligned.boxes import Boxes, ciou
from exportloss.loss.task_aligned.candidates import TargetBoxes, find_candidates, runs_here
from exportloss.loss.task_aligned.grid import Grid
from exportloss.loss.task_aligned.largest import largest_places
from exportloss.task_aligned_config import TaskAlignedConfig

__all__ = ["Assignment", "assign"]

_EPS = 1e-9
_ROWS = 16  # whose metrics are computed at once on a CPU


@dataclasses.dataclass(frozen=True)
class Assignment:
    """S = M * topk slots: one per target row and cell that it selected.

    Attributes:
        image: (S,) int64 image.
        cell: (S,) int64 cell, among A.
        row: (S,) int64 target row that the cell learns, if the slot learns.
        learns: (S,) bool, whether the slot's cell learns a target; at most one slot per cell.
        weight: (S,) target of the class's probability, in [0, 1]; 0 if the slot does not learn.
    """

    image: Tensor
    cell: Tensor
    row: Tensor
    learns: Tensor
    weight: Tensor


def assign(
    maps: Sequence[Tensor],
    boxes: Boxes,
    targets: TargetBoxes,
    grid: Grid,
    config: TaskAlignedConfig,
) -> Assignment:
    """Assign cells to target rows. Nothing in it has a gradient.

    Args:
        maps: (B, 4 R + nc, H, W) logits, one map per level, detached.
        boxes: (B, A) predicted boxes in pixels, detached.
        targets: Target rows, M of them.
        grid: Cells of all levels, A of them.
        config: Options.
    """
    is_yolov9 = config.profile == "yolov9"
    candidate = find_candidates(
        targets, grid, profile=config.profile, reg_max=config.reg_max
    )  # (M, A)
    learnable = targets.exists[:, None] if is_yolov9 else candidate
    overlap, metric = _fit(maps, boxes, targets, learnable, config)

    ranked = torch.where(candidate, metric, 0.0) if is_yolov9 else metric
    cell = _places(ranked, min(config.topk, grid.cells))  # (M, topk)
    selected = candidate.gather(1, cell)
    picks = selected
    if is_yolov9:
        selected = selected & (ranked.gather(1, cell) > 0)
        cell, selected, picks = _with_one_cell(metric, cell, selected)
    # A row's cells differ or write the same, so that the order of writing does not matter.
    picked = torch.zeros_like(metric).scatter(1, cell, picks.to(metric.dtype))  # (M, A)
    return _settle(
        targets,
        config,
        metric=metric,
        overlap=overlap,
        cell=cell,
        selected=selected,
        picked=picked,
    )


def _fit(
    maps: Sequence[Tensor],
    boxes: Boxes,
    targets: TargetBoxes,
    learnable: Tensor,
    config: TaskAlignedConfig,
) -> tuple[Tensor, Tensor]:
    """Compute how well each cell's prediction fits each target row.

    Args:
        maps, boxes, targets, config: As for `assign`.
        learnable: (M, A) or (M, 1) bool; overlap and metric are 0 where it is false.

    Returns:
        Overlap and metric, (M, A) each.
    """
    if not runs_here(learnable):
        return _fit_rows(maps, boxes, targets, learnable, config)
    # A few rows at once, so that a CPU's caches hold the intermediate results.
    parts = [
        _fit_rows(maps, boxes, targets.rows(start, _ROWS), learnable[start : start + _ROWS], config)
        for start in range(0, len(learnable), _ROWS)
    ]
    overlaps, metrics = zip(*parts, strict=True)
    return torch.cat(overlaps), torch.cat(metrics)


def _fit_rows(
    maps: Sequence[Tensor],
    boxes: Boxes,
    targets: TargetBoxes,
    learnable: Tensor,
    config: TaskAlignedConfig,
) -> tuple[Tensor, Tensor]:
    mine = boxes.map(lambda values: values.index_select(0, targets.image))  # (M, A)
    overlap = ciou(mine, targets.boxes, inside_out=config.reg_max == 1).clamp(min=0.0)
    overlap = torch.where(learnable, overlap, 0.0)
    return overlap, _metric(overlap, _class_logits(maps, targets, bins=4 * config.reg_max))


def _places(values: Tensor, count: int) -> Tensor:
    if torch.compiler.is_exporting():  # gradient builders know standard operators only
        places: Tensor = values.topk(count, dim=1).indices
    else:
        places = largest_places(values, count)
    return places


def _class_logits(maps: Sequence[Tensor], targets: TargetBoxes, *, bins: int) -> Tensor:
    """Return the logits of each target's class in all cells of its image.  # (M, A)"""
    levels = []
    for level in maps:
        plane = targets.image * level.shape[1] + (targets.category + bins)
        levels.append(level.reshape(-1, level.shape[2] * level.shape[3]).index_select(0, plane))
    return torch.cat(levels, dim=1)


def _metric(overlap: Tensor, logits: Tensor) -> Tensor:
    """Compute sqrt(p) * overlap^6, p = sigmoid(logits), arXiv 2108.07755, equation 6."""
    cubed = overlap * overlap * overlap
    return cubed * cubed / torch.sqrt(1 + torch.exp(-logits))  # exp may be infinite: 0


def _with_one_cell(metric: Tensor, cell: Tensor, selected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Let rows that selected no cell select that of their largest metric, if it is above 0.

    Returns:
        Cells, whether the slot selects its cell, and whether the row does: all slots of such a row
        have the same cell, which the first of them selects.
    """
    best = metric.argmax(dim=1, keepdim=True)  # (M, 1)
    lonely = ~selected.any(dim=1, keepdim=True) & (metric.gather(1, best) > 0)
    first = torch.arange(cell.shape[1], device=cell.device) == 0
    return torch.where(lonely, best, cell), selected | (lonely & first), selected | lonely


def _settle(
    targets: TargetBoxes,
    config: TaskAlignedConfig,
    *,
    metric: Tensor,
    overlap: Tensor,
    cell: Tensor,
    selected: Tensor,
    picked: Tensor,
) -> Assignment:
    """Give cells that several rows selected to one of them, and weigh all cells.

    Args:
        targets: Target rows, M of them.
        config: Options.
        metric, overlap: (M, A) values of each row in each cell.
        cell: (M, topk) cells of the slots.
        selected: (M, topk) bool, whether the slot selects its cell.
        picked: (M, A), 1 where the row selected the cell, else 0.
    """
    rows, count = cell.shape
    size = metric.shape[1]
    number = torch.arange(rows, device=cell.device)
    chooser = number[:, None].expand(rows, count).flatten()  # (S,)
    place = cell.flatten()
    image = targets.image.index_select(0, chooser)
    same = (targets.image[:, None] == image) & targets.exists[:, None]  # (M, S)
    picks = torch.where(same, picked.index_select(1, place), 0.0)
    rivals = same & (picks > 0) if config.profile == "yolov9" else same
    winner = torch.where(rivals, overlap.index_select(1, place), -1.0).argmax(dim=0)  # (S,)
    row = torch.where(picks.sum(dim=0) > 1, winner, chooser)
    # Of the rows that selected a cell, the first one's slot stands for it.
    learns = selected.flatten() & (picks.argmax(dim=0) == chooser)

    at = row * size + place
    metric_at = metric.flatten().index_select(0, at)
    overlap_at = overlap.flatten().index_select(0, at)
    owned = (number[:, None] == row) & learns  # (M, S)
    if config.topk2 < count:
        owned = _keep_best(owned, metric_at, place, config.topk2)
        learns = owned.any(dim=0)
    largest_metric = torch.where(owned, metric_at, 0.0).amax(dim=1)  # (M,)
    largest_overlap = torch.where(owned, overlap_at, 0.0).amax(dim=1)
    scale = (largest_overlap / (largest_metric + _EPS)).index_select(0, row)
    weight = torch.where(learns, metric_at * scale, 0.0)
    return Assignment(image, place, row, learns, weight)


def _keep_best(owned: Tensor, metric: Tensor, place: Tensor, count: int) -> Tensor:
    """Keep the `count` best slots of each row, of equals that of the first cell.  # (M, S)"""
    kept = torch.zeros_like(owned)
    order = place.to(metric.dtype)  # exact: there are fewer cells than 2^24
    for _ in range(count):
        left = owned & ~kept
        best = torch.where(left, metric, -1.0).amax(dim=1, keepdim=True)
        tied = left & (metric == best)
        first = torch.where(tied, order, torch.inf).amin(dim=1, keepdim=True)
        kept = kept | (tied & (order == first))
    return kept
