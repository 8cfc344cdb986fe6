"""A training step in torch, as YOLOv5's training loop has it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from exportloss.bench.implementations.compiling import captured, compiled_function
from exportloss.bench.implementations.detector import (
    configure_torch,
    make_eager_loss,
    make_loss,
    make_model,
    with_one_thread,
)
from exportloss.bench.implementations.implementation import Prepared
from exportloss.bench.scenario import (
    LEARNING_RATE,
    MAX_NORM,
    MOMENTUM,
    WEIGHT_DECAY,
    Scenario,
    make_images,
    make_padded_targets,
    make_targets,
)
from exportloss.errors import ConfigError
from exportloss.loss.sparse_head import SparseHeadLoss
from exportloss.models import YoloV5, freeze, parameter_groups
from exportloss.runtime.optimizers.table import LOSS_SCALE

__all__ = [
    "compiled",
    "cuda_graph",
    "eager",
    "eager_channels_last",
    "sparse",
    "sparse_channels_last",
    "static",
]

Value = Callable[[Tensor], Tensor]  # (B, 3, H, W) in [0, 1] -> scalar


class _TrainStep:
    """Forward, backward, clipping, SGD with Nesterov momentum in YOLOv5's three groups."""

    def __init__(
        self,
        model: YoloV5,
        value: Value,
        scenario: Scenario,
        *,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.value = value
        self._model = model
        # On the host, as YOLOv5's loader leaves them; ONNX Runtime's sessions start there, too.
        self._images = torch.from_numpy(make_images(scenario))
        self._device = torch.device(scenario.torch_device)
        if self._device.type != "cpu":
            self._images = self._images.pin_memory()
        self._memory_format = memory_format
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._optimizer = _make_optimizer(model)
        self._scaler = torch.amp.GradScaler(
            init_scale=LOSS_SCALE, enabled=scenario.precision == "float16"
        )

    def __call__(self) -> float:
        return self.update().item()  # waits for a GPU

    def update(self) -> Tensor:
        """Do a step; return the loss before it."""
        images = self._images.to(self._device, non_blocking=True).float() / 255
        loss = self.value(images.contiguous(memory_format=self._memory_format))
        torch.autograd.backward(self._scaler.scale(loss))
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._trained, MAX_NORM)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return loss.detach()

    def check(self) -> tuple[float, float]:
        """Return the losses of two steps; the second depends on the first update."""
        return self(), self()

    @contextlib.contextmanager
    def undone(self) -> Iterator[None]:
        """Restore weights, statistics and momentum in place at the end of the block."""
        tensors = [*self._model.parameters(), *self._model.buffers()]
        before = [tensor.detach().clone() for tensor in tensors]
        yield
        with torch.no_grad():
            for tensor, old in zip(tensors, before, strict=True):
                tensor.copy_(old)
        for state in self._optimizer.state.values():
            state["momentum_buffer"].zero_()  # gives the same first step as no buffer
        self._optimizer.zero_grad()


def eager(scenario: Scenario, artifact: Path | None) -> Prepared:
    """The original's loss, NCHW."""
    return _eager(scenario, torch.contiguous_format)


def eager_channels_last(scenario: Scenario, artifact: Path | None) -> Prepared:
    """The original's loss, NHWC."""
    return _eager(scenario, torch.channels_last)


def static(scenario: Scenario, artifact: Path | None) -> Prepared:
    """`YoloLoss`, NCHW."""
    step = _static(scenario)
    return Prepared(step=step, check=step.check)


def sparse(scenario: Scenario, artifact: Path | None) -> Prepared:
    """`SparseHeadLoss`, NCHW: the head is evaluated where the loss looks."""
    step = _sparse(scenario, torch.contiguous_format)
    return Prepared(step=step, check=step.check)


def sparse_channels_last(scenario: Scenario, artifact: Path | None) -> Prepared:
    """`SparseHeadLoss`, NHWC."""
    step = _sparse(scenario, torch.channels_last)
    return Prepared(step=step, check=step.check)


def compiled(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Network and `YoloLoss` under `torch.compile`, which is done when this returns."""
    step = _static(scenario)

    def warm_up(value: Value) -> None:
        images = torch.zeros(
            scenario.batch_size, 3, *scenario.image_size, device=scenario.torch_device
        )
        with step.undone():
            torch.autograd.backward(value(images))

    step.value = compiled_function(step.value, warm_up=warm_up)
    return Prepared(step=step, check=step.check)


def cuda_graph(scenario: Scenario, artifact: Path | None) -> Prepared:
    """The step with `YoloLoss` as one CUDA graph."""
    step = _static(scenario)
    with step.undone():
        replay = captured(step.update, scenario)

    return Prepared(step=replay, check=lambda: (replay().item(), replay().item()))


def _eager(scenario: Scenario, memory_format: torch.memory_format) -> Prepared:
    model = _make_model(scenario, memory_format)
    loss = make_eager_loss(model, scenario)
    targets = torch.from_numpy(make_targets(scenario)).to(scenario.torch_device)

    def value(images: Tensor) -> Tensor:
        with _autocast(scenario):
            maps = model(images)
        return loss([level.float() for level in maps], targets)[0]

    step = _TrainStep(model, value, scenario, memory_format=memory_format)
    return Prepared(step=step, check=lambda: with_one_thread(step.check, scenario))


def _static(scenario: Scenario) -> _TrainStep:
    _check_precision(scenario)
    model = _make_model(scenario, torch.contiguous_format)
    loss = make_loss(model, scenario).to(scenario.torch_device)
    targets = torch.from_numpy(make_padded_targets(scenario)).to(scenario.torch_device)

    def value(images: Tensor) -> Tensor:
        total: Tensor = loss(model(images), targets)[0]
        return total

    return _TrainStep(model, value, scenario)


def _sparse(scenario: Scenario, memory_format: torch.memory_format) -> _TrainStep:
    _check_precision(scenario)
    model = _make_model(scenario, memory_format)
    loss = SparseHeadLoss(model.detect, make_loss(model, scenario)).to(scenario.torch_device)
    targets = torch.from_numpy(make_padded_targets(scenario)).to(scenario.torch_device)

    def value(images: Tensor) -> Tensor:
        total: Tensor = loss(model.features(images), targets)[0]
        return total

    return _TrainStep(model, value, scenario, memory_format=memory_format)


def _autocast(scenario: Scenario) -> contextlib.AbstractContextManager[object]:
    """Return autocasting to the scenario's precision if it is a half one, else a no-op."""
    if scenario.precision in ("float32", "tf32"):
        return contextlib.nullcontext()
    kind = torch.device(scenario.torch_device).type
    return torch.autocast(kind, dtype=getattr(torch, scenario.precision))


def _check_precision(scenario: Scenario) -> None:
    if scenario.precision not in ("float32", "tf32"):
        raise ConfigError(
            f"precision is {scenario.precision}; only the eager loss is measured in it"
        )


def _make_model(scenario: Scenario, memory_format: torch.memory_format) -> YoloV5:
    configure_torch(scenario)
    model = make_model(scenario).train()
    freeze(model, scenario.freeze)
    device = torch.device(scenario.torch_device)
    return model.to(device).to(memory_format=memory_format)  # type: ignore[call-overload,no-any-return]


def _make_optimizer(model: YoloV5) -> torch.optim.Optimizer:
    groups, parameters = parameter_groups(model), dict(model.named_parameters())
    described = [
        {"params": [parameters[name] for name in names], "weight_decay": decay}
        for names, decay in (
            (groups.weights, WEIGHT_DECAY),
            (groups.norms, 0.0),
            (groups.biases, 0.0),
        )
        if names
    ]
    return torch.optim.SGD(described, lr=LEARNING_RATE, momentum=MOMENTUM, nesterov=True)
