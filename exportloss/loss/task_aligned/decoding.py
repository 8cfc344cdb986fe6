"""Distances to the four sides of a box, read from bins, and the boxes they make."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from exportloss.loss.task_aligned.boxes import Boxes
from exportloss.loss.task_aligned.grid import Grid

__all__ = ["boxes_around", "decode_maps", "decode_rows"]

# Largest distance in cells that is told apart, so that squares of sides stay finite.
_FARTHEST = 1e6


def decode_maps(maps: Sequence[Tensor], grid: Grid, *, reg_max: int) -> Boxes:
    """Decode the boxes of all cells of all images, in pixels, without gradients.

    Args:
        maps: (B, 4 R + nc, H, W) logits, one map per level, detached.
        grid: Their cells.
        reg_max: Bins per distance, R.

    Returns:
        Boxes (B, A) in pixels.
    """
    levels = []
    for level in maps:
        batch = level.shape[0]
        logits = level[:, : 4 * reg_max].reshape(batch * 4, reg_max, -1)
        levels.append(_expectation_of_columns(logits).reshape(batch, 4, -1))
    distances = torch.cat(levels, dim=2)  # (B, 4, A)
    sides = _corners_around(grid.x, grid.y, distances.unbind(1))
    return Boxes.of_corners(*(side * grid.stride for side in sides))


def decode_rows(logits: Tensor) -> Tensor:
    """Decode distances in cells from the bins of single cells, with gradients.

    Args:
        logits: (S, 4, R) logits of left, top, right and bottom.

    Returns:
        (S, 4) distances in cells.
    """
    bins = logits.shape[2]
    if bins == 1:
        return logits[:, :, 0].clamp(-_FARTHEST, _FARTHEST)
    e = torch.exp(logits - logits.detach().amax(dim=2, keepdim=True))
    places = torch.arange(bins, dtype=logits.dtype, device=logits.device)
    return (e * places).sum(dim=2) / e.sum(dim=2)


def boxes_around(x: Tensor, y: Tensor, distances: Tensor) -> Boxes:
    """Return the boxes that have these distances from points, in the units of both.

    Args:
        x, y: (S,) points.
        distances: (S, 4) distances to left, top, right and bottom.
    """
    return Boxes.of_corners(*_corners_around(x, y, distances.unbind(1)))


def _corners_around(x: Tensor, y: Tensor, distances: Sequence[Tensor]) -> Sequence[Tensor]:
    left, top, right, bottom = distances
    return x - left, y - top, x + right, y + bottom


def _expectation_of_columns(logits: Tensor) -> Tensor:
    """Return the mean bin under the softmax of each column of (N, R, cells).  # (N, cells)"""
    bins = logits.shape[1]
    if bins == 1:
        return logits[:, 0].clamp(-_FARTHEST, _FARTHEST)
    e = torch.exp(logits - logits.amax(dim=1, keepdim=True))
    places = torch.arange(bins, dtype=logits.dtype, device=logits.device)
    # Numerator and denominator in one product.
    sums = torch.stack((places, torch.ones_like(places))) @ e  # (N, 2, cells)
    return sums[:, 0] / sums[:, 1]
