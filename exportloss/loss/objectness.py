"""The objectness of all boxes against the IoU of the match that wins each of them."""

from __future__ import annotations

import torch
from torch import Tensor

from exportloss.config import LossConfig
from exportloss.loss.criteria import ElementwiseCriterion
from exportloss.loss.shared_cells import SharedCells, write_equals

__all__ = ["objectness_of_boxes"]


def objectness_of_boxes(
    logits: Tensor,
    *,
    box: Tensor,
    matched: Tensor,
    order: Tensor,
    ciou: Tensor,
    shared: SharedCells | None,
    criterion: ElementwiseCriterion,
    config: LossConfig,
) -> Tensor:
    """Compute the criterion of all boxes; the target is the IoU of the winning match, or 0.

    Args:
        logits: (N,) objectness logits of all boxes.
        box: (nl, na, S, M) index of each slot's box among them.
        matched: (nl, na, S, M) bool, whether the slot matches.
        order: (nl, 1, S, M) place in YOLOv5's order of matches.
        ciou: (nl, na, S, M) complete IoU, detached.
        shared: Slots that share a cell, to combine them pair by pair; None scatters maxima.
        criterion: Element-wise criterion.
        config: Options; `gr` and `sort_obj_iou` are used.

    Returns:
        (N,) criterion of each box.
    """
    box = box.flatten()
    score = (1 - config.gr) + config.gr * torch.relu(ciou)
    if not config.sort_obj_iou:
        # The last of YOLOv5's matches wins. A maximum does not depend on the order of writing,
        # unlike a plain write to duplicate indices.
        if shared is None:
            place = torch.where(matched, order, 0)
            last = _scatter_largest(logits, box, place).index_select(0, box).reshape(place.shape)
        else:
            place = torch.where(matched, order.to(score.dtype), 0.0)
            last = shared.largest(place)
        matched = matched & (last == place)
    # The remaining matches of a cell are equal, unless `sort_obj_iou` takes the largest.
    scores = torch.where(matched, score, 0.0)
    if shared is None:
        wanted = _scatter_largest(logits, box, scores)
    else:
        wanted = write_equals(len(logits), box, shared.largest(scores).flatten())
    return criterion(logits, wanted)


def _scatter_largest(boxes: Tensor, box: Tensor, values: Tensor) -> Tensor:
    """Return for each box the largest of its values, >= 0, or 0 if it has none.  # (N,)"""
    zeros = torch.zeros_like(boxes, dtype=values.dtype)
    return zeros.scatter_reduce(0, box, values.flatten(), "amax")
