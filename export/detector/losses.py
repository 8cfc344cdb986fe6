"""The torch class of each kind of loss, made from settings and a detector's sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from exportloss.loss.protocol import DetectionLoss
from exportloss.loss.task_aligned.loss import TaskAlignedLoss
from exportloss.loss.yolo_loss import YoloLoss
from exportloss.loss_kinds import LossSettings

__all__ = ["make_loss"]

# (settings, strides, number of classes, anchors in pixels) -> loss
_Make = Callable[[Any, Sequence[float], int, Any], DetectionLoss]


def _yolov5(
    settings: Any, strides: Sequence[float], num_classes: int, anchors: Any
) -> DetectionLoss:
    return YoloLoss(torch.as_tensor(anchors), strides, num_classes, settings)


def _task_aligned(
    settings: Any, strides: Sequence[float], num_classes: int, anchors: Any
) -> DetectionLoss:
    return TaskAlignedLoss(strides, num_classes, settings)


_CLASSES: Mapping[str, _Make] = {"yolov5": _yolov5, "task-aligned": _task_aligned}


def make_loss(
    settings: LossSettings, *, strides: Sequence[float], num_classes: int, anchors: Any = ()
) -> DetectionLoss:
    """Return the loss of the kind that the settings belong to.

    Args:
        settings: Settings of the loss.
        strides: (nl,) input pixels per cell, fine to coarse.
        num_classes: Number of classes.
        anchors: (nl, na, 2) anchors in input pixels, for kinds that have them.

    Raises:
        ConfigError: settings, strides and anchors do not fit together.
    """
    return _CLASSES[settings.kind](settings, strides, num_classes, anchors)
