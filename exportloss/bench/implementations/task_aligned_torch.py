"""The anchor-free loss in torch: forward, and backward to the gradients of the maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from exportloss.bench.implementations.compiling import compiled_function
from exportloss.bench.implementations.detector import configure_torch
from exportloss.bench.implementations.implementation import Prepared
from exportloss.bench.implementations.task_aligned_inputs import STRIDES, make_anchor_free_maps
from exportloss.bench.implementations.torch_loss import LossStep
from exportloss.bench.scenario import Scenario, make_padded_targets, make_targets
from exportloss.loss.output import LossOutput
from exportloss.loss.task_aligned.loss import TaskAlignedLoss

__all__ = ["compiled", "eager", "make_task_aligned_loss", "static"]


def make_task_aligned_loss(scenario: Scenario) -> TaskAlignedLoss:
    """Build the loss with its defaults."""
    return TaskAlignedLoss(STRIDES, scenario.num_classes)


def eager(scenario: Scenario, artifact: Path | None) -> Prepared:
    """The loss with dynamic shapes, image by image."""
    loss = make_task_aligned_loss(scenario).reference()
    return _prepared(_step(loss, make_targets(scenario), scenario))


def static(scenario: Scenario, artifact: Path | None) -> Prepared:
    """`TaskAlignedLoss`, operator by operator."""
    return _prepared(_static(scenario))


def compiled(scenario: Scenario, artifact: Path | None) -> Prepared:
    """`TaskAlignedLoss` under `torch.compile`, which is done when this returns."""
    step = _static(scenario)
    step.value = compiled_function(step.value, warm_up=lambda value: LossStep(value, step.maps)())
    return _prepared(step)


def _static(scenario: Scenario) -> LossStep:
    return _step(make_task_aligned_loss(scenario), make_padded_targets(scenario), scenario)


def _step(
    loss: Callable[[Sequence[Tensor], Tensor], LossOutput],
    targets: npt.NDArray[np.float32],
    scenario: Scenario,
) -> LossStep:
    configure_torch(scenario)
    device = scenario.torch_device
    rows = torch.from_numpy(targets).to(device)
    maps = [
        torch.from_numpy(x).to(device).requires_grad_() for x in make_anchor_free_maps(scenario)
    ]
    return LossStep(lambda levels: loss(levels, rows).loss, maps)


def _prepared(step: LossStep) -> Prepared:
    return Prepared(step=step, check=step.check)
