"""The cells of all levels as one list, fine to coarse, row by row."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Grid"]


@dataclasses.dataclass(frozen=True)
class Grid:
    """A cells of nl levels, and where they lie.

    Attributes:
        sizes: Rows and columns of cells, (H, W), per level.
        strides: Input pixels per cell, per level.
        image_size: Height and width of the images in pixels.
        x, y: (A,) centres of the cells, in cells of their level.
        stride: (A,) input pixels per cell.
    """

    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    image_size: tuple[int, int]
    x: Tensor
    y: Tensor
    stride: Tensor

    @classmethod
    def of(cls, maps: Sequence[Tensor], strides: tuple[int, ...]) -> Grid:
        """Describe the cells of maps (B, C, H, W)."""
        sizes = tuple((level.shape[2], level.shape[3]) for level in maps)
        like = maps[0]
        x, y, stride = [], [], []
        for (height, width), pixels in zip(sizes, strides, strict=True):
            column, row = (
                torch.arange(side, dtype=like.dtype, device=like.device) + 0.5
                for side in (width, height)
            )
            x.append(column.repeat(height))
            y.append(row[:, None].expand(height, width).flatten())
            stride.append(like.new_full((height * width,), pixels))
        height, width = sizes[0]
        image_size = height * strides[0], width * strides[0]
        return cls(sizes, strides, image_size, torch.cat(x), torch.cat(y), torch.cat(stride))

    @property
    def cells(self) -> int:
        """Number of cells, A."""
        return sum(height * width for height, width in self.sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Index of each level's first cell."""
        counts = [height * width for height, width in self.sizes]
        return tuple(sum(counts[:level]) for level in range(len(counts)))
