"""Lower limits of the time on this machine, by memory or by arithmetic."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from exportloss.bench.implementations.detector import configure_torch, make_model, make_torch_maps
from exportloss.bench.implementations.implementation import Prepared
from exportloss.bench.scenario import Scenario
from exportloss.models import YoloV5, freeze

__all__ = ["arithmetic_limit", "count_multiply_adds", "memory_limit"]

_SIDE = 1024


def memory_limit(scenario: Scenario, artifact: Path | None) -> Prepared:
    """A plain copy: it reads every prediction once and writes as much as their gradient."""
    configure_torch(scenario)
    maps = [x.detach() for x in make_torch_maps(make_model(scenario), scenario)]
    gradients = [torch.zeros_like(x) for x in maps]

    def step() -> None:
        for gradient, x in zip(gradients, maps, strict=True):
            gradient.copy_(x)
        wait(scenario)

    size = sum(x.numel() * x.element_size() for x in maps)
    return Prepared(step=step, facts={"predictions_mb": size / 1e6})


def arithmetic_limit(scenario: Scenario, artifact: Path | None) -> Prepared:
    """A matrix product, its time scaled to as many multiply-adds as the step's convolutions."""
    configure_torch(scenario)
    multiply_adds = count_multiply_adds(scenario)
    generator = torch.Generator().manual_seed(scenario.seed)
    a, b = (
        torch.rand(_SIDE, _SIDE, generator=generator).to(scenario.torch_device) for _ in range(2)
    )
    out = torch.empty_like(a)

    def step() -> None:
        torch.mm(a, b, out=out)
        wait(scenario)

    return Prepared(
        step=step,
        scale=multiply_adds / _SIDE**3,
        facts={"multiply_adds": float(multiply_adds)},
    )


def count_multiply_adds(scenario: Scenario) -> int:
    """Count the multiply-adds of the convolutions in a training step.

    The output of a convolution, the gradient of its weight and that of its input take equally
    many; the gradients count only where they are needed.
    """
    model = make_model(scenario)
    freeze(model, scenario.freeze)
    model = model.to("meta")
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        times = 1 + module.weight.requires_grad + inputs[0].requires_grad
        total += times * output.numel() * module.weight[0].numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count)
    _run_on_nothing(model, scenario)
    return total


def _run_on_nothing(model: YoloV5, scenario: Scenario) -> None:
    """Run the network on the meta device, which computes nothing."""
    model(torch.empty(scenario.batch_size, 3, *scenario.image_size, device="meta"))


def wait(scenario: Scenario) -> None:
    """Wait until the device is idle."""
    if scenario.torch_device != "cpu":
        torch.cuda.synchronize()
