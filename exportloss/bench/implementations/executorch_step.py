"""A training step in ExecuTorch's training module, by the recipe of its own examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from exportloss.bench.implementations.detector import configure_torch, make_loss, make_model
from exportloss.bench.implementations.implementation import Prepared
from exportloss.bench.scenario import (
    LEARNING_RATE,
    MOMENTUM,
    WEIGHT_DECAY,
    Scenario,
    make_images,
    make_padded_targets,
)
from exportloss.errors import ConfigError, ExportError
from exportloss.loss.yolo_loss import YoloLoss
from exportloss.models import YoloV5, freeze

__all__ = ["executorch"]


class _Network(nn.Module):
    def __init__(self, model: YoloV5, loss: YoloLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, images: Tensor, targets: Tensor) -> Tensor:
        value: Tensor = self.loss(self.model(images), targets)[0]
        return value


def executorch(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Network and `YoloLoss`, forward and backward, in portable kernels; its SGD has one group.

    Its optimizer decays every weight and clips nothing, so only the first loss is compared.

    Raises:
        ExportError: ExecuTorch cannot lower, load or run it.
        ConfigError: The device is a GPU.
    """
    if scenario.torch_device != "cpu":
        raise ConfigError("ExecuTorch's training module has no GPU")
    configure_torch(scenario)
    images = torch.from_numpy(make_images(scenario)).float() / 255
    batch = (images, torch.from_numpy(make_padded_targets(scenario)))
    model = make_model(scenario).train()
    freeze(model, scenario.freeze)
    try:
        module = _load(_Network(model, make_loss(model, scenario)), batch)
        optimizer = _make_optimizer(module, batch)
    except Exception as error:  # of many kinds, without a common base
        reason = " ".join(str(error).split())[:300]
        raise ExportError(f"ExecuTorch's own recipe fails: {reason}") from error

    def step() -> float:
        (loss,) = module.forward_backward("forward", batch)
        optimizer.step(module.named_gradients())
        return float(loss)

    return Prepared(step=step, check=lambda: (step(),))


def _load(network: nn.Module, batch: tuple[Tensor, ...]) -> Any:
    from executorch.exir import to_edge
    from executorch.extension.training import _load_for_executorch_for_training_from_buffer
    from torch.export.experimental import _export_forward_backward

    program = _export_forward_backward(torch.export.export(network, batch, strict=True))
    return _load_for_executorch_for_training_from_buffer(to_edge(program).to_executorch().buffer)


def _make_optimizer(module: Any, batch: tuple[Tensor, ...]) -> Any:
    from executorch.extension.training import get_sgd_optimizer

    module.forward_backward(
        "forward", batch
    )  # the module lists its parameters only after a first pass
    return get_sgd_optimizer(
        module.named_parameters(), LEARNING_RATE, MOMENTUM, 0.0, WEIGHT_DECAY, True
    )
