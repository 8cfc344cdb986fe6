"""The objectness of all boxes against the IoU of the match that wins each of them."""

from __future__ import annotations

import torch
from torch import Tensor

from exportloss.config import LossConfig
from exportloss.loss.shared_cells import SharedCells

__all__ = ["objectness_targets"]


def objectness_targets(
    ciou: Tensor, *, matched: Tensor, order: Tensor, shared: SharedCells, config: LossConfig
) -> Tensor:
    """Return the objectness targets of the boxes that a slot matches: the IoU of the winner.

    Args:
        ciou: (nl, na, S, M) complete IoU, detached.
        matched: (nl, na, S, M) bool, whether the slot matches.
        order: (nl, 1, S, M) place in YOLOv5's order of matches.
        shared: Slots that share a cell.
        config: Options; `gr` and `sort_obj_iou` are used.

    Returns:
        (nl, na, S, M) target of the box of the last slot of a cell; 0 for all other slots.
    """
    score = (1 - config.gr) + config.gr * torch.relu(ciou)
    if not config.sort_obj_iou:
        # The last of YOLOv5's matches wins. A maximum does not depend on the order of writing,
        # unlike a plain write to duplicate indices.
        place = torch.where(matched, order.to(score.dtype), 0.0)
        matched = matched & (shared.largest(place) == place)
    # The remaining matches of a cell are equal, unless `sort_obj_iou` takes the largest.
    return shared.largest_at_last(torch.where(matched, score, 0.0))
