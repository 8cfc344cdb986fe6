"""Readers of a level's predictions: objectness in all cells, all else where a target may match.

There are three sources of the same numbers. Maps, either permuted as in YOLOv5 or as the head's
convolution returns them, are read in the cells that the loss needs. From the head's input, the head
is evaluated in those cells only, and the maps are never computed.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from exportloss.loss.map_gradient import OBJECTNESS, element_index, map_gradient
from exportloss.loss.shared_cells import SharedCells, write_equals

__all__ = ["OBJECTNESS", "HeadInput", "HeadOutput", "Level", "PermutedMap", "box_index"]


@dataclasses.dataclass(frozen=True)
class Level(abc.ABC):
    """Raw predictions of a level: B images, H x W cells, na boxes per cell.

    Attributes:
        source: Tensor to read; its dimensions begin with B, any, H, W.
    """

    source: Tensor

    @property
    def batch_size(self) -> int:
        """Number of images, B."""
        return self.source.shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells, (H, W)."""
        return self.source.shape[2], self.source.shape[3]

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the network."""
        return self.source.dtype

    @abc.abstractmethod
    def read(self, image: Tensor, cell: Tensor, shared: SharedCells) -> tuple[Tensor, Tensor]:
        """Return the logits that the loss needs.

        Args:
            image: (M,) int64 index of each target row's image.
            cell: (S, M) int64 index among the H * W cells.
            shared: Cells of the level that several slots have in common. The gradients of rows must
                come through `SharedCells.read`.

        Returns:
            rows: (na, S, M, 5 + nc) logits of all boxes of those cells.
            objectness: (B * na * H * W,) logits of all boxes of the level.
        """


@dataclasses.dataclass(frozen=True)
class PermutedMap(Level):
    """The map that YOLOv5's head returns in training: (B, na, H, W, 5 + nc)."""

    def read(self, image: Tensor, cell: Tensor, shared: SharedCells) -> tuple[Tensor, Tensor]:
        """Return the logits that the loss needs; see `Level.read`."""
        _, na, _, _, outputs = self.source.shape
        return _read_boxes(self, image, cell, shared, na=na, outputs=outputs)


@dataclasses.dataclass(frozen=True)
class HeadOutput(Level):
    """The map that the head's convolution returns: (B, na * (5 + nc), H, W).

    Attributes:
        num_anchors: Number of boxes per cell, na.
    """

    num_anchors: int

    def read(self, image: Tensor, cell: Tensor, shared: SharedCells) -> tuple[Tensor, Tensor]:
        """Return the logits that the loss needs; see `Level.read`."""
        na, channels = self.num_anchors, self.source.shape[1]
        return _read_boxes(self, image, cell, shared, na=na, outputs=channels // na)


@dataclasses.dataclass(frozen=True)
class HeadInput(Level):
    """The head's features and its 1x1 convolution, evaluated only in the cells the loss needs.

    Attributes:
        source: (B, C, H, W) features.
        weight: (na * (5 + nc), C, 1, 1) weight of the convolution.
        bias: (na * (5 + nc),) bias of the convolution.
        num_anchors: Number of boxes per cell, na.
    """

    weight: Tensor
    bias: Tensor
    num_anchors: int

    def read(self, image: Tensor, cell: Tensor, shared: SharedCells) -> tuple[Tensor, Tensor]:
        """Return the logits that the loss needs; see `Level.read`."""
        na, channels = self.num_anchors, self.source.shape[1]
        weight = self.weight.reshape(na, -1, channels)  # (na, no, C)
        bias = self.bias.reshape(na, -1)  # (na, no)
        objectness = functional.conv2d(
            self.source, weight[:, OBJECTNESS, :, None, None], bias[:, OBJECTNESS]
        )  # (B, na, H, W)
        seen = self._features_at(image, cell, shared)  # (S * M, C), the same for all anchors
        rows = functional.linear(seen, self.weight.flatten(1), self.bias)  # (S * M, na * no)
        rows = rows.reshape(*cell.shape, na, -1).permute(2, 0, 1, 3)
        return rows, objectness.flatten()

    def _features_at(self, image: Tensor, cell: Tensor, shared: SharedCells) -> Tensor:
        _, channels, height, width = self.source.shape
        cells = height * width
        if shared.same is None and self.source.is_contiguous(memory_format=torch.channels_last):
            by_cell = self.source.permute(0, 2, 3, 1).reshape(-1, channels)
            return by_cell[(image * cells + cell).flatten()]
        first = image * (channels * cells) + cell  # (S, M), of each cell's first channel
        index = first[..., None] + torch.arange(channels, device=image.device) * cells
        flat, index = self.source.flatten(), index.flatten()
        if shared.same is not None:
            read: Callable[..., Tensor] = _ReadFeatures.apply
            return read(flat, index.reshape(-1, channels), shared.same, shared.last)
        # The gradient of index_select sums in no fixed order on CUDA; that of [] is slow on a CPU.
        seen = flat[index] if flat.is_cuda else flat.index_select(0, index)
        return seen.reshape(-1, channels)


def box_index(image: Tensor, cell: Tensor, *, na: int, cells: int) -> Tensor:
    """Return the indices among all B * na * H * W boxes of a level.  # (na, S, M)"""
    plane = image * na + torch.arange(na, device=image.device)[:, None]  # (na, M)
    return plane[:, None] * cells + cell


def _read_boxes(
    level: Level,
    image: Tensor,
    cell: Tensor,
    shared: SharedCells,
    *,
    na: int,
    outputs: int,
) -> tuple[Tensor, Tensor]:
    """Read a map of either layout; see `Level.read`."""
    height, width = level.grid
    box = box_index(image, cell, na=na, cells=height * width)
    read: Callable[..., tuple[Tensor, Tensor]] = _ReadMap.apply
    if torch.compiler.is_exporting():
        rows, objectness = _read_map(level.source, box.flatten(), outputs)
    else:
        combined = () if shared.same is None else (shared.same,)
        rows, objectness = read(level.source, box.flatten(), outputs, shared.last, *combined)
    return rows.reshape(*box.shape, outputs), objectness


def _read_map(source: Tensor, box: Tensor, outputs: int) -> tuple[Tensor, Tensor]:
    """Return rows (K, no) of boxes, and the objectness of all boxes, of a map of either layout."""
    if source.ndim == 5:
        boxes = source.reshape(-1, outputs)
        return boxes.index_select(0, box), boxes[:, OBJECTNESS]
    cells = source.shape[2] * source.shape[3]
    index = element_index(box, outputs=outputs, cells=cells)
    rows = source.flatten().index_select(0, index.flatten()).reshape(index.shape)
    return rows, source.reshape(-1, outputs, cells)[:, OBJECTNESS].flatten()


class _ReadMap(torch.autograd.Function):
    """`_read_map`, with both gradients written by one operator."""

    @staticmethod
    def forward(
        ctx: Any, source: Tensor, box: Tensor, outputs: int, *shared: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(box, *shared)
        ctx.shape = source.shape
        rows, objectness = _read_map(source, box, outputs)
        return rows, objectness.contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (box, *shared), (rows, objectness) = ctx.saved_tensors, gradients
        by_anchor = rows.reshape(-1, len(shared[0]), rows.shape[1])  # (na, K, no)
        rows = SharedCells(*shared).combined(by_anchor).reshape(rows.shape)
        written = map_gradient(objectness, box, rows, ctx.shape, add=False)
        return written, None, None, *(None for _ in shared)


class _ReadFeatures(torch.autograd.Function):
    """Reading of cells' features, with the gradients of a cell summed before they are written."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, index: Tensor, same: Tensor, last: Tensor) -> Tensor:
        ctx.save_for_backward(index, same, last)
        ctx.size = len(flat)
        return flat.index_select(0, index.flatten()).reshape(index.shape)  # (K, C)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (index, same, last), (rows,) = ctx.saved_tensors, gradients
        total = SharedCells(last, same).total(rows)
        return write_equals(ctx.size, index.flatten(), total.flatten()), None, None, None
