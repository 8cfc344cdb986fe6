"""Distances to the four sides of a box, read from bins, and the boxes they make."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from exportloss.loss.task_aligned.boxes import Boxes
from exportloss.loss.task_aligned.grid import Grid

__all__ = ["FARTHEST", "boxes_around", "decode_maps", "decode_rows", "mean_bins"]

# Largest distance in cells that is told apart, so that squares of sides stay finite.
FARTHEST = 1e6


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
        if torch.compiler.is_exporting():
            levels.append(_mean_bins(level, reg_max))
        else:
            levels.append(mean_bins(level, reg_max))
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
        return logits[:, :, 0].clamp(-FARTHEST, FARTHEST)
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


@torch.library.custom_op("exportloss::mean_bins", mutates_args=())
def mean_bins(level: Tensor, bins: int) -> Tensor:
    """Return the mean bin under the softmax of each side's bins, for all cells of a map.

    Args:
        level: (B, C, H, W) map; its first 4 * `bins` channels are bins.
        bins: Bins per distance, R; with 1 the distances are the channels themselves.

    Returns:
        (B, 4, H * W) distances in cells.
    """
    # Image by image on a CPU, whose caches then hold the intermediate results.
    parts = torch.split(level, 1) if level.device.type == "cpu" else (level,)
    return torch.cat([_mean_bins(part, bins) for part in parts])


@mean_bins.register_fake
def _(level: Tensor, bins: int) -> Tensor:
    return level.new_empty((level.shape[0], 4, level.shape[2] * level.shape[3]))


def _mean_bins(level: Tensor, bins: int) -> Tensor:
    batch = level.shape[0]
    logits = level[:, : 4 * bins].reshape(batch * 4, bins, -1)  # (B * 4, R, H * W)
    if bins == 1:
        means = logits[:, 0].clamp(-FARTHEST, FARTHEST)
    else:
        e = torch.exp(logits - logits.amax(dim=1, keepdim=True))
        places = torch.arange(bins, dtype=logits.dtype, device=logits.device)
        # Numerator and denominator in one product.
        sums = torch.stack((places, torch.ones_like(places))) @ e  # (B * 4, 2, H * W)
        means = sums[:, 0] / sums[:, 1]
    return means.reshape(batch, 4, -1)
