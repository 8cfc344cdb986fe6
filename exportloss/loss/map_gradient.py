"""The gradient of a map that was read sparsely, as one operator of its own.

Left to autograd, what was read of objectness and of rows would each be a map of zeros with a few
numbers in it, and both be added. One operator writes it in one go, and exporters see it whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["OBJECTNESS", "element_index", "map_gradient"]

OBJECTNESS = 4  # its channel among x, y, w, h, objectness, classes


@torch.library.custom_op("exportloss::map_gradient", mutates_args=())
def map_gradient(
    objectness: Tensor, box: Tensor, rows: Tensor, shape: Sequence[int], *, add: bool = True
) -> Tensor:
    """Write the gradient of a map of N = B * na * H * W boxes, of which K were read as a whole.

    Args:
        objectness: (N,) gradient of the objectness that was read of every box.
        box: (K,) int64, indices of the boxes that were read, which may repeat.
        rows: (K, 5 + nc) gradients of what was read of them.
        shape: (B, na, H, W, 5 + nc), or (B, na * (5 + nc), H, W).
        add: whether the rows of a box are to be added up. If not, they are equal, each the sum
            already, and it does not matter which of them is written.

    Returns:
        The sum of all, of that shape, zero elsewhere.
    """
    outputs = rows.shape[1]
    after = outputs - OBJECTNESS - 1
    if not add:  # the objectness is part of what is written
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
    """Index of each box's numbers among all of a map (B, na * no, H, W).  # (..., no)"""
    plane = torch.div(box, cells, rounding_mode="floor")
    first = box + plane * ((outputs - 1) * cells)
    return first[..., None] + torch.arange(outputs, device=box.device) * cells
