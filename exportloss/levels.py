"""What the loss reads of a level: objectness in every cell, all else where a target may match.

Three sources of the same numbers. A network's maps, permuted as YOLOv5 does or as the head's
convolution wrote them, are read where the loss looks. Given the head's input instead, the head is
evaluated where the loss looks, and the maps are never made.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["OBJECTNESS", "HeadInput", "HeadOutput", "Level", "PermutedMap", "box_index"]

OBJECTNESS = 4  # its channel among x, y, w, h, objectness, classes


@dataclasses.dataclass(frozen=True)
class Level(abc.ABC):
    """Raw predictions of a level: B pictures, H x W cells, na boxes a cell.

    Attributes:
        source: what they are read from; its dimensions begin with B, any, H, W.
    """

    source: Tensor

    @property
    def batch_size(self) -> int:
        """B."""
        return self.source.shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """H and W."""
        return self.source.shape[2], self.source.shape[3]

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        return self.source.dtype

    @abc.abstractmethod
    def read(self, image: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the loss looks at.

        Args:
            image: (M,) int64, index of the picture of each target row.
            cell: (S, M) int64, index among the H * W cells.

        Returns:
            rows: (na, S, M, 5 + nc) logits of all boxes of those cells.
            objectness: (B * na * H * W,) logits.
        """


@dataclasses.dataclass(frozen=True)
class PermutedMap(Level):
    """The map that YOLOv5's head gives in training: (B, na, H, W, 5 + nc)."""

    def read(self, image: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Read what the loss looks at."""
        _, na, height, width, outputs = self.source.shape
        box = box_index(image, cell, na=na, cells=height * width)
        read = _read_boxes if torch.compiler.is_exporting() else _ReadBoxes.apply
        rows, objectness = read(self.source.reshape(-1, outputs), box.flatten())
        return rows.reshape(*box.shape, outputs), objectness


@dataclasses.dataclass(frozen=True)
class HeadOutput(Level):
    """What the head's convolution gives: (B, na * (5 + nc), H, W)."""

    num_anchors: int

    def read(self, image: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Read what the loss looks at."""
        na, (height, width) = self.num_anchors, self.grid
        outputs = self.source.shape[1] // na
        first = box_index(image, cell, na=na, cells=outputs * height * width)  # (na, S, M)
        channel = torch.arange(outputs, device=image.device) * (height * width)
        index = first[..., None] + channel  # (na, S, M, no)
        planes = self.source.reshape(self.batch_size * na, outputs, height * width)
        read = _read_planes if torch.compiler.is_exporting() else _ReadPlanes.apply
        rows, objectness = read(planes, index.flatten())
        return rows.reshape(index.shape), objectness


@dataclasses.dataclass(frozen=True)
class HeadInput(Level):
    """The head's features and its 1x1 convolution, which is evaluated where the loss looks.

    Attributes:
        source: (B, C, H, W) features.
        weight: (na * (5 + nc), C, 1, 1).
        bias: (na * (5 + nc),).
        num_anchors: na.
    """

    weight: Tensor
    bias: Tensor
    num_anchors: int

    def read(self, image: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Read what the loss looks at."""
        na, channels = self.num_anchors, self.source.shape[1]
        weight = self.weight.reshape(na, -1, channels)  # (na, no, C)
        bias = self.bias.reshape(na, -1)  # (na, no)
        objectness = functional.conv2d(
            self.source, weight[:, OBJECTNESS, :, None, None], bias[:, OBJECTNESS]
        )  # (B, na, H, W)
        seen = self._features_at(image, cell)  # (S * M, C), shared by the anchors of a cell
        rows = functional.linear(seen, self.weight.flatten(1), self.bias)  # (S * M, na * no)
        rows = rows.reshape(*cell.shape, na, -1).permute(2, 0, 1, 3)
        return rows, objectness.flatten()

    def _features_at(self, image: Tensor, cell: Tensor) -> Tensor:
        _, channels, height, width = self.source.shape
        cells = height * width
        if self.source.is_contiguous(memory_format=torch.channels_last):
            by_cell = self.source.permute(0, 2, 3, 1).reshape(-1, channels)
            return by_cell[(image * cells + cell).flatten()]
        channel = image[:, None] * channels + torch.arange(channels, device=image.device)
        index = channel * cells + cell[..., None]  # (S, M, C)
        flat, index = self.source.flatten(), index.flatten()
        # The gradient of index_select has no fixed order on CUDA; that of [] is slow elsewhere.
        seen = flat[index] if flat.is_cuda else flat.index_select(0, index)
        return seen.reshape(-1, channels)


def box_index(image: Tensor, cell: Tensor, *, na: int, cells: int) -> Tensor:
    """Index among all B * na * H * W boxes of a level.  # (na, S, M)"""
    plane = image * na + torch.arange(na, device=image.device)[:, None]  # (na, M)
    return plane[:, None] * cells + cell


def _read_boxes(boxes: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    return boxes.index_select(0, index), boxes[:, OBJECTNESS]


class _ReadBoxes(torch.autograd.Function):
    """Rows of (N, no) and the objectness column; their gradients are written in one go.

    Left to autograd, each would be a map of zeros with a few numbers in it, and both be added.
    """

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index)
        ctx.outputs = boxes.shape[1]
        rows, objectness = _read_boxes(boxes, index)
        return rows, objectness.contiguous()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (index,), (rows, objectness) = ctx.saved_tensors, gradients
        column = functional.pad(objectness[:, None], (OBJECTNESS, ctx.outputs - OBJECTNESS - 1))
        # Not index_add: slower on a CPU, and its sums have no fixed order on CUDA.
        return column.index_put_((index,), rows, accumulate=True), None


def _read_planes(planes: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    return planes.flatten().index_select(0, index), planes[:, OBJECTNESS].flatten()


class _ReadPlanes(torch.autograd.Function):
    """Elements of (B * na, no, H * W) and the objectness planes, as `_ReadBoxes`."""

    @staticmethod
    def forward(ctx: Any, planes: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(index)
        ctx.shape = planes.shape
        return _read_planes(planes, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (index,), (rows, objectness) = ctx.saved_tensors, gradients
        planes, outputs, cells = ctx.shape
        below = outputs - OBJECTNESS - 1
        padded = functional.pad(objectness.reshape(planes, 1, cells), (0, 0, OBJECTNESS, below))
        flat = padded.flatten().index_put_((index,), rows, accumulate=True)
        return flat.reshape(ctx.shape), None
