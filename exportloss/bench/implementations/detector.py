"""Model and loss of a scenario, in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from exportloss.bench.scenario import Scenario, make_head, make_maps
from exportloss.eager import ComputeLoss
from exportloss.loss.yolo_loss import YoloLoss
from exportloss.models import YoloV5, yolov5

__all__ = [
    "configure_torch",
    "head_channels",
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
    """Draw the inputs of the loss on the scenario's device, as leaves that require gradients.

    With layout `head-input` the head gets the scenario's weights, too.
    """
    channels = head_channels(model)
    if scenario.layout == "head-input":
        drawn = make_head(scenario, model.detect.na, channels)
        with torch.no_grad():
            for convolution, (weight, bias) in zip(model.detect.m, drawn, strict=True):
                assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
                convolution.weight.copy_(torch.from_numpy(weight))
                convolution.bias.copy_(torch.from_numpy(bias))
    maps = make_maps(scenario, model.strides, model.detect.na, channels)
    return [torch.from_numpy(x).to(scenario.torch_device).requires_grad_() for x in maps]


def head_channels(model: YoloV5) -> list[int]:
    """Return the channels of the head's input per level."""
    return [m.in_channels for m in model.detect.m if isinstance(m, nn.Conv2d)]


def configure_torch(scenario: Scenario) -> None:
    """Set torch's threads within an operator, and TF32 as the scenario's precision asks."""
    torch.set_num_threads(scenario.threads)
    is_tf32 = scenario.precision == "tf32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = is_tf32
    torch.backends.cudnn.benchmark = True  # the fastest of its algorithms, as in ONNX Runtime


def with_one_thread(compute: Callable[[], Result], scenario: Scenario) -> Result:
    """Compute with one thread, or in a fixed order on a GPU, then restore the configuration.

    Without this, chance decides in the original which of several targets gets a shared cell.
    """
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(scenario.torch_device != "cpu", warn_only=True)
    try:
        return compute()
    finally:
        torch.use_deterministic_algorithms(False)
        configure_torch(scenario)
