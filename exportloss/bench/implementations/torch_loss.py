"""The loss in torch: forward, and backward to the gradients of the loss's inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from exportloss.bench.implementations.compiling import captured, compiled_function
from exportloss.bench.implementations.detector import (
    configure_torch,
    make_eager_loss,
    make_loss,
    make_model,
    make_torch_maps,
    with_one_thread,
)
from exportloss.bench.implementations.implementation import Prepared
from exportloss.bench.scenario import Scenario, make_padded_targets, make_targets
from exportloss.errors import ConfigError
from exportloss.loss.sparse_head import SparseHeadLoss
from exportloss.models import YoloV5
from exportloss.models.layers import Detect

__all__ = ["LossStep", "compiled", "cuda_graph", "eager", "sparse", "static"]

Value = Callable[[Sequence[Tensor]], Tensor]  # maps in the scenario's layout -> scalar


class LossStep:
    """Computes a loss and leaves the gradients in its maps and parameters."""

    def __init__(
        self, value: Value, maps: Sequence[Tensor], parameters: Sequence[Tensor] = ()
    ) -> None:
        self.value, self.maps = value, maps
        self.leaves = (*maps, *parameters)

    def __call__(self) -> float:
        """Return the loss."""
        for x in self.leaves:
            x.grad = None  # as `zero_grad` leaves a network
        loss = self.value(self.maps)
        torch.autograd.backward(loss)
        return loss.item()  # waits for a GPU

    def check(self) -> tuple[float, float]:
        """Return the loss, and the L2 norm of its gradients."""
        loss = self()
        return loss, _norm([x.grad for x in self.leaves if x.grad is not None])


def eager(scenario: Scenario, artifact: Path | None) -> Prepared:
    """The original's algorithm."""
    configure_torch(scenario)
    model = make_model(scenario).to(scenario.torch_device)
    loss = make_eager_loss(model, scenario)
    targets = torch.from_numpy(make_targets(scenario)).to(scenario.torch_device)

    def value(maps: Sequence[Tensor]) -> Tensor:
        return loss(_permuted(maps, scenario, model.detect), targets)[0]

    step = LossStep(value, make_torch_maps(model, scenario), _parameters(model, scenario))
    return Prepared(step=step, check=lambda: with_one_thread(step.check, scenario))


def static(scenario: Scenario, artifact: Path | None) -> Prepared:
    """`YoloLoss`, operator by operator."""
    step = _static(scenario)
    return Prepared(step=step, check=step.check)


def compiled(scenario: Scenario, artifact: Path | None) -> Prepared:
    """`YoloLoss` under `torch.compile`, which is done when this returns."""
    step = _static(scenario)
    step.value = compiled_function(step.value, warm_up=lambda value: LossStep(value, step.maps)())
    return Prepared(step=step, check=step.check)


def cuda_graph(scenario: Scenario, artifact: Path | None) -> Prepared:
    """`YoloLoss`, forward and backward, as one CUDA graph."""
    step = _static(scenario)
    maps = step.maps

    def compute() -> tuple[Tensor, ...]:
        loss = step.value(maps)
        return loss, *torch.autograd.grad(loss, maps)

    replay = captured(compute, scenario)

    def check() -> tuple[float, float]:
        loss, *gradients = replay()
        return loss.item(), _norm(gradients)

    return Prepared(step=replay, check=check)


def sparse(scenario: Scenario, artifact: Path | None) -> Prepared:
    """`SparseHeadLoss`: the head is evaluated where the loss looks."""
    if scenario.layout != "head-input":
        raise ConfigError("it starts from the head's input; pass --layout head-input")
    configure_torch(scenario)
    model = make_model(scenario).to(scenario.torch_device)
    loss = SparseHeadLoss(model.detect, make_loss(model, scenario)).to(scenario.torch_device)
    targets = torch.from_numpy(make_padded_targets(scenario)).to(scenario.torch_device)

    def value(maps: Sequence[Tensor]) -> Tensor:
        total: Tensor = loss(maps, targets)[0]
        return total

    step = LossStep(value, make_torch_maps(model, scenario), _parameters(model, scenario))
    return Prepared(step=step, check=step.check)


def _static(scenario: Scenario) -> LossStep:
    configure_torch(scenario)
    model = make_model(scenario).to(scenario.torch_device)
    loss = make_loss(model, scenario).to(scenario.torch_device)
    targets = torch.from_numpy(make_padded_targets(scenario)).to(scenario.torch_device)

    def value(maps: Sequence[Tensor]) -> Tensor:
        read = maps if scenario.layout == "head-output" else _permuted(maps, scenario, model.detect)
        total: Tensor = loss(read, targets)[0]
        return total

    return LossStep(value, make_torch_maps(model, scenario), _parameters(model, scenario))


def _parameters(model: YoloV5, scenario: Scenario) -> tuple[Tensor, ...]:
    """Return the head's parameters if it is measured with the loss, else none."""
    return tuple(model.detect.parameters()) if scenario.layout == "head-input" else ()


def _norm(gradients: Sequence[Tensor]) -> float:
    """Return the L2 norm of all gradients as one vector."""
    return math.hypot(*(float(torch.linalg.vector_norm(g)) for g in gradients))


def _permuted(maps: Sequence[Tensor], scenario: Scenario, head: Detect) -> Sequence[Tensor]:
    """Apply the rest of YOLOv5's head: its convolution, and the permuted copy of its output."""
    if scenario.layout == "permuted":
        return maps
    if scenario.layout == "head-input":
        permuted: Sequence[Tensor] = head(*maps)
        return permuted
    return [
        x.view(len(x), head.na, head.no, *x.shape[2:]).permute(0, 1, 3, 4, 2).contiguous()
        for x in maps
    ]
