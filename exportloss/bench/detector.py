"""Model and loss of a scenario, in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from exportloss.bench.scenario import Scenario, make_maps
from exportloss.eager import ComputeLoss
from exportloss.loss import YoloLoss
from exportloss.models import YoloV5, yolov5

__all__ = [
    "configure_torch",
    "make_eager_loss",
    "make_loss",
    "make_model",
    "make_torch_maps",
    "with_one_thread",
]


Result = TypeVar("Result")


def make_model(scenario: Scenario) -> YoloV5:
    """Build the detector; the same seed gives the same weights in every process."""
    torch.manual_seed(scenario.seed)
    return yolov5(scenario.model, scenario.num_classes)


def make_loss(model: YoloV5, scenario: Scenario) -> YoloLoss:
    """Build the static loss."""
    config = scenario.loss_config(len(model.strides))
    return YoloLoss(model.anchors_px, model.strides, model.num_classes, config)


def make_eager_loss(model: YoloV5, scenario: Scenario) -> ComputeLoss:
    """Build the original's loss, on the device of the model."""
    config = scenario.loss_config(len(model.strides))
    return ComputeLoss.from_config(model.anchors_px, model.strides, model.num_classes, config)


def make_torch_maps(model: YoloV5, scenario: Scenario) -> list[Tensor]:
    """Draw what the head gives, on the scenario's device, as leaves that want a gradient."""
    maps = make_maps(scenario, model.strides, model.detect.na)
    return [torch.from_numpy(x).to(scenario.torch_device).requires_grad_() for x in maps]


def configure_torch(scenario: Scenario) -> None:
    """Let torch use as many threads within an operator as the scenario says, and full float32."""
    torch.set_num_threads(scenario.threads)
    torch.backends.cudnn.allow_tf32 = False  # as it is in ONNX Runtime's sessions here


def with_one_thread(compute: Callable[[], Result], scenario: Scenario) -> Result:
    """Compute with one thread, then go back to the scenario's number.

    With more, the original leaves it to chance which target wins a shared cell.
    """
    torch.set_num_threads(1)
    try:
        return compute()
    finally:
        configure_torch(scenario)
