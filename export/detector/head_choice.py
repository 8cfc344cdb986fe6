"""Choice between evaluating the head in all cells and only in those the loss needs."""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor, nn

from exportloss.errors import ConfigError, ExportError
from exportloss.loss.protocol import DetectionLoss
from exportloss.loss.sparse_head import SparseHeadLoss
from exportloss.loss.yolo_loss import YoloLoss
from exportloss.runtime.artifact.manifest import Head

__all__ = ["HeadChoice", "choose_head"]

HeadChoice = Literal["auto", "dense", "sparse"]

# Measured, see docs/benchmarks.md: cost of one element of the dense maps relative to one element
# of a gathered row; and number of elements below which maps cost less than the sparse head's
# overhead.
_ROWS_PER_MAP = 0.5
_SMALL_MAPS = 500_000

_CELLS_PER_TARGET = 3  # most cells per level that a target row trains


def choose_head(
    model: nn.Module, loss: DetectionLoss, head: HeadChoice, *, images: Tensor, max_targets: int
) -> Head:
    """Return the form in which to evaluate the head; "auto" takes the faster one for these sizes.

    Args:
        model: Detector; a sparse head requires `features` and `detect`, as `YoloV5` has them.
        loss: Loss of the detector.
        head: "dense", "sparse", or "auto" for the faster of them.
        images: (B, 3, H, W) example input of the graph.
        max_targets: Number of target rows of the graph.

    Raises:
        ExportError: `head` is "sparse" and the model lacks what it requires, or the loss needs
            every cell.
    """
    if head == "dense":
        return "dense"
    if not isinstance(loss, YoloLoss):
        if head == "sparse":
            raise ExportError(
                f"head is 'sparse', which YOLOv5's loss can have, not a {loss.kind!r} loss; export "
                "with head dense"
            )
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
    rows = math.prod((levels, _CELLS_PER_TARGET, max_targets, na, outputs))
    return "sparse" if maps > _SMALL_MAPS and rows < _ROWS_PER_MAP * maps else "dense"


def _is_able(head: Any, loss: YoloLoss) -> bool:
    try:
        SparseHeadLoss(head, loss)
    except ConfigError:  # a head of another kind
        return False
    return True
