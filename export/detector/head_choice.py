"""Whether to evaluate the head everywhere, or only where the loss looks."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor, nn

from exportloss.errors import ConfigError, ExportError
from exportloss.loss.sparse_head import SparseHeadLoss
from exportloss.loss.yolo_loss import YoloLoss
from exportloss.runtime.artifact.manifest import Head

__all__ = ["HeadChoice", "choose_head"]

HeadChoice = Literal["auto", "dense", "sparse"]

# Measured, see docs/benchmarks.md: what a number of the dense maps costs, in numbers of the rows
# that the loss looks at; and the size of maps that cost less than the sparse head's own overhead.
_ROWS_PER_MAP = 0.5
_SMALL_MAPS = 500_000

_SLOTS = 3  # cells a target row trains, at most


def choose_head(
    model: nn.Module, loss: YoloLoss, head: HeadChoice, *, images: Tensor, max_targets: int
) -> Head:
    """Choose the faster form for the sizes at hand, if the choice is left to us.

    Args:
        model: the detector; a sparse head needs `features` and `detect`, as `YoloV5` has them.
        loss: its loss.
        head: "dense", "sparse", or "auto" for the faster.
        images: (B, 3, H, W) that the graph is for.
        max_targets: target rows that the graph is for.

    Raises:
        ExportError: a sparse head is wanted and the model has none.
    """
    if head == "dense":
        return "dense"
    able = hasattr(model, "features") and hasattr(model, "detect")
    if head == "sparse" and not able:
        raise ExportError(
            f"{type(model).__name__} has no `features` and `detect`, which a sparse head needs; "
            "export with head dense"
        )
    if head == "sparse":
        return "sparse"
    if not able or not _is_able(model.detect, loss):
        return "dense"
    batch_size, _, height, width = images.shape
    (levels, na), outputs = loss.anchors.shape[:2], 5 + loss.num_classes
    cells = sum(height // stride * (width // stride) for stride in map(int, loss.strides.tolist()))
    maps = batch_size * na * cells * outputs
    rows = math.prod((levels, _SLOTS, max_targets, na, outputs))
    return "sparse" if maps > _SMALL_MAPS and rows < _ROWS_PER_MAP * maps else "dense"


def _is_able(head: Any, loss: YoloLoss) -> bool:
    try:
        SparseHeadLoss(head, loss)
    except ConfigError:  # it is of another kind
        return False
    return True
