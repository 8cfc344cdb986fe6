"""The gradient of a map that was read sparsely, as a custom operator.

Autograd would write two maps, the gradients of the objectness and of the rows, each mostly zeros,
and add them. One operator writes them in one pass, and exporters see it as a unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["OBJECTNESS", "element_index", "map_gradient"]

OBJECTNESS = 4  # channel, in the order x, y, w, h, objectness, classes


@torch.library.custom_op("exportloss::map_gradient", mutates_args=())
def map_gradient(
    objectness: Tensor, box: Tensor, rows: Tensor, shape: Sequence[int], *, add: bool = True
) -> Tensor:
    """Compute the gradient of a map of N = B * na * H * W boxes, of which K rows were read.

    Args:
        objectness: (N,) gradients of the objectness of all boxes.
        box: (K,) int64 indices of the boxes whose rows were read; they may repeat.
        rows: (K, 5 + nc) gradients of those rows.
        shape: Shape of the map: (B, na, H, W, 5 + nc), or (B, na * (5 + nc), H, W).
        add: Whether to sum the rows of a box. If not, the rows of a box must be equal, each of
            them the sum, and any one of them is written.

    Returns:
        Sum of both gradients, of shape `shape`; zero elsewhere.
    """
    outputs = rows.shape[1]
    after = outputs - OBJECTNESS - 1
    if not add:  # a plain write replaces the objectness, so it has to be included
        rows = rows + functional.pad(objectness[box, None], (OBJECTNESS, after))
    # Not index_add: slower on a CPU, and its sums have no fixed order on CUDA.
    if len(shape) == 5:
        boxes = functional.pad(objectness[:, None], (OBJECTNESS, after))  # (N, no)
        return boxes.index_put_((box,), rows, accumulate=add).reshape(shape)
    cells = shape[2] * shape[3]
    planes = functional.pad(objectness.reshape(-1, 1, cells), (0, 0, OBJECTNESS, after)).flatten()
    index = element_index(box, outputs=outputs, cells=cells)
    return planes.index_put_((index.flatten(),), rows.flatten(), accumulate=add).reshape(shape)


@map_gradient.register_fake
def _(
    objectness: Tensor, box: Tensor, rows: Tensor, shape: Sequence[int], *, add: bool = True
) -> Tensor:
    return objectness.new_empty(shape)


def element_index(box: Tensor, *, outputs: int, cells: int) -> Tensor:
    """Return the indices of each box's numbers in a flat map (B, na * no, H, W).  # (..., no)"""
    plane = torch.div(box, cells, rounding_mode="floor")
    first = box + plane * ((outputs - 1) * cells)
    return first[..., None] + torch.arange(outputs, device=box.device) * cells
