"""A detector's training and evaluation step as pure functions of flat tensors."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from exportloss.errors import ExportError
from exportloss.export.aten.tracing import region
from exportloss.export.detector.wrapper import TrainableDetector
from exportloss.export.step.batch_statistics import BatchStatistics
from exportloss.export.step.chunks import Part, chunks
from exportloss.export.step.flat_state import flatten, flatten_parts, lay_out, unflatten
from exportloss.export.step.half_precision import HalfPrecision
from exportloss.export.step.optimizers import l2_norm
from exportloss.export.step.update import updated
from exportloss.loss.output import LossOutput
from exportloss.runtime.artifact.flat_layout import FlatLayout
from exportloss.runtime.artifact.manifest import OptimizerName, Precision
from exportloss.runtime.optimizers.table import LOSS_SCALE, OPTIMIZERS

__all__ = ["Step"]


@dataclasses.dataclass(frozen=True)
class Step:
    """The steps of one detector and optimizer; their state is a few flat vectors.

    Attributes:
        detector: Model and loss.
        optimizer: Name of the update rule.
        ema: Whether the state includes a moving average of parameters and statistics.
        precision: Element type of the network in training; all else is float32.
    """

    detector: TrainableDetector
    optimizer: OptimizerName
    ema: bool = False
    precision: Precision = "float32"

    @property
    def parameters(self) -> FlatLayout:
        """Layout of the trainable parameters: weights, norms, biases."""
        groups = self.detector.groups
        tensors = dict(self.detector.model.named_parameters())
        return lay_out(tensors, (*groups.weights, *groups.norms, *groups.biases))

    @property
    def statistics(self) -> FlatLayout:
        """Layout of the trained BatchNorm statistics: all means and variances."""
        norms = self.detector.statistics
        names = [name for norm in norms for name in (norm.mean, norm.var)]
        return lay_out(dict(self.detector.model.named_buffers()), names)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Modules that the steps call, by the prefixes of the names of the graph's nodes."""
        return {"": self.detector.model, "loss": self.detector.image_loss.loss}

    @property
    def state(self) -> dict[str, Tensor]:
        """State before the first step, by the names of the graph's inputs."""
        model = self.detector.model
        parameters = flatten(self.parameters, dict(model.named_parameters())).detach()
        statistics = flatten(self.statistics, dict(model.named_buffers()))
        trained = {
            "parameters": parameters,
            **({"statistics": statistics} if statistics.numel() else {}),
        }
        averages = {f"ema_{name}": tensor.clone() for name, tensor in trained.items()}
        return {
            **trained,
            **(averages if self.ema else {}),
            **self.detector.loss.initial_state,
            "updates": torch.zeros(()),
            "gradients": torch.zeros_like(parameters),
            **{
                f"optimizer_{kept.name}": torch.full_like(parameters, kept.initial)
                for kept in OPTIMIZERS[self.optimizer].state
            },
        }

    def train_example(self) -> dict[str, Tensor]:
        """Return example inputs of the training step by name, in order."""
        return {
            "images": self.detector.images.to(torch.uint8),
            "targets": self.detector.targets,
            "learning_rates": torch.zeros(3),
            "momentum": torch.tensor(0.9),
            "weight_decay": torch.zeros(()),
            "max_norm": torch.tensor(torch.inf),
            **({"ema_decay": torch.tensor(0.9999)} if self.ema else {}),
            **({"loss_scale": torch.tensor(LOSS_SCALE)} if self.precision == "float16" else {}),
            "update": torch.tensor(True),
            **self.state,
        }

    def evaluation_example(self) -> dict[str, Tensor]:
        """Return example inputs of the evaluation step by name, in order."""
        read = ("parameters", "statistics", *self.detector.loss.initial_state)
        state = {name: tensor for name, tensor in self.state.items() if name in read}
        return {
            "images": self.detector.images.to(torch.uint8),
            "targets": self.detector.targets,
            **state,
        }

    def train(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss, its terms and the new state; see `export_train_step` for the names."""
        parameters = {
            name: tensor.detach().requires_grad_()
            for name, tensor in unflatten(self.parameters, inputs["parameters"]).items()
        }
        running = unflatten(self.statistics, inputs.get("statistics", torch.zeros(0)))
        images = _fractions(inputs["images"])
        with _mode(self.detector.model, training=True), BatchStatistics(running) as statistics:
            output = self._loss(images, inputs, parameters, running)
        loss = output.loss
        # Without the scale, small gradients would underflow to 0 in float16.
        scale = inputs.get("loss_scale")
        scaled = loss if scale is None else loss * scale
        gradients = _gradients(scaled, parameters)
        with region("optimizer"):
            parts = self._parts()
            found = flatten_parts(self.parameters, gradients, [part for part, _ in parts])
            found = found if scale is None else [gradient / scale for gradient in found]
            totals = [
                inputs["gradients"][part] + gradient
                for (part, _), gradient in zip(parts, found, strict=True)
            ]
            norm = l2_norm(totals)
            moved = dict(output.state)
            if running:
                moved["statistics"] = statistics.updated(self.statistics, inputs["statistics"])
            is_finite = _is_finite(inputs, loss.detach(), norm, *moved.values())
            new = {k: torch.where(is_finite, value, inputs[k]) for k, value in moved.items()}
            new |= updated(self.optimizer, inputs, totals, parts, norm=norm, is_finite=is_finite)
        if self.ema:
            with region("ema"):
                new |= _averages(inputs, new, is_finite)
        outputs = {"loss": loss.detach(), "items": output.terms, "skipped": is_finite.logical_not()}
        return outputs | {f"new_{name}": tensor for name, tensor in new.items()}

    def apply_example(self) -> dict[str, Tensor]:
        """Return example inputs of the update alone by name, in order."""
        of_a_batch = {"images", "targets", "loss_scale", "update", "balance"}
        unused = of_a_batch if self.ema else of_a_batch | {"statistics"}
        return {k: v for k, v in self.train_example().items() if k not in unused}

    def apply(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Update from accumulated gradients, without a batch, with the arithmetic of `train`."""
        inputs = {**inputs, "update": torch.ones((), dtype=torch.bool)}
        with region("optimizer"):
            parts = self._parts()
            totals = [inputs["gradients"][part] for part, _ in parts]
            norm = l2_norm(totals)
            is_finite = _is_finite(inputs, norm)
            new = updated(self.optimizer, inputs, totals, parts, norm=norm, is_finite=is_finite)
        if self.ema:
            with region("ema"):
                new |= _averages(inputs, {**inputs, **new}, is_finite)
        outputs = {"skipped": is_finite.logical_not()}
        return outputs | {f"new_{name}": tensor for name, tensor in new.items()}

    def evaluate(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the loss, its terms and the decoded predictions, with the running statistics."""
        running = unflatten(self.statistics, inputs.get("statistics", torch.zeros(0)))
        with torch.no_grad(), _mode(self.detector.model, training=False):
            parameters = unflatten(self.parameters, inputs["parameters"])
            levels = self._levels(_fractions(inputs["images"]), parameters, running)
            output = self.detector.loss(levels, inputs["targets"], self._loss_state(inputs))
            decode = getattr(self.detector.model, "decode", None)
            decoded = {} if decode is None else {"output0": decode(levels)}
        return {"loss": output.loss, "items": output.terms, **decoded}

    def inference_example(self) -> dict[str, Tensor]:
        """Return example inputs of the detector alone by name, in order."""
        vectors = {k: v for k, v in self.state.items() if k in ("parameters", "statistics")}
        return {"images": self.detector.images, **vectors}

    def named_example(self) -> dict[str, Tensor]:
        """Return example inputs of the detector alone, with trained tensors by their own names."""
        vectors = self.inference_example()
        running = unflatten(self.statistics, vectors.get("statistics", torch.zeros(0)))
        tensors = unflatten(self.parameters, vectors["parameters"]) | running
        return {"images": vectors["images"], **tensors}

    def infer_named(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute what `infer` does, from inputs as in `named_example`."""
        with torch.no_grad(), _mode(self.detector.model, training=False):
            tensors = {name: tensor for name, tensor in inputs.items() if name != "images"}
            levels = self._levels(inputs["images"], tensors, {})
            return {"output0": self.detector.model.decode(levels)}  # type: ignore[operator]

    def infer(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute decoded predictions with the running statistics; images are floats in [0, 1]."""
        running = unflatten(self.statistics, inputs.get("statistics", torch.zeros(0)))
        parameters = unflatten(self.parameters, inputs["parameters"])
        with torch.no_grad(), _mode(self.detector.model, training=False):
            levels = self._levels(inputs["images"], parameters, running)
            return {"output0": self.detector.model.decode(levels)}  # type: ignore[operator]

    def _computing(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "float32":
            return contextlib.nullcontext()
        return HalfPrecision(getattr(torch, self.precision))

    def _loss_state(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: inputs[name] for name in self.detector.loss.initial_state}

    def _loss(
        self,
        images: Tensor,
        inputs: dict[str, Tensor],
        parameters: dict[str, Tensor],
        running: dict[str, Tensor],
    ) -> LossOutput:
        output: LossOutput = torch.func.functional_call(
            self.detector.image_loss,
            {f"detector.{k}": v for k, v in self._tensors(parameters, running).items()},
            (images, inputs["targets"], self._loss_state(inputs), self._computing()),
        )
        return output

    def _levels(
        self, images: Tensor, parameters: dict[str, Tensor], running: dict[str, Tensor]
    ) -> tuple[Tensor, ...]:
        levels: tuple[Tensor, ...] = torch.func.functional_call(
            self.detector.model, self._tensors(parameters, running), (images,)
        )
        return levels

    def _tensors(
        self, parameters: dict[str, Tensor], running: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        # With a fixed momentum the counters are unused, and counting would modify the model.
        counters = {
            name: torch.zeros((), dtype=torch.int64)
            for name, _ in self.detector.model.named_buffers()
            if name.endswith("num_batches_tracked")
        }
        return {**parameters, **running, **counters}

    def _parts(self) -> list[Part]:
        """Parts in which the vectors of parameters are updated."""
        sizes = dict(zip(self.parameters.names, self.parameters.sizes, strict=True))
        groups = self.detector.groups
        named = (groups.weights, groups.norms, groups.biases)
        return list(chunks([sum(sizes[name] for name in names) for names in named]))


def _fractions(images: Tensor) -> Tensor:
    """Convert images from [0, 255] to float32 in [0, 1]."""
    return images.to(torch.float32) / 255


def _is_finite(inputs: dict[str, Tensor], *results: Tensor) -> Tensor:
    """Return whether results, any targets, and settings are finite (`max_norm` may be infinite).

    0 * x is 0 if x is finite and NaN otherwise. So one sum covers all values, cannot overflow, and
    needs no kernel for IsNaN or IsInf, which some runtimes lack.
    """
    checked = ("targets", "learning_rates", "momentum", "weight_decay", "ema_decay")
    values = [*(inputs[name] for name in checked if name in inputs), *results]
    zeros = 0 * torch.cat([value.reshape(-1) for value in values])
    return (zeros.sum() == 0) & (inputs["max_norm"] > 0)


def _averages(
    inputs: dict[str, Tensor], new: dict[str, Tensor], is_finite: Tensor
) -> dict[str, Tensor]:
    """Move the averages toward the updated parameters and statistics."""
    averages, update = {}, inputs["update"] & is_finite
    for name in ("parameters", "statistics"):
        if (average := inputs.get(f"ema_{name}")) is not None:
            step = (1 - inputs["ema_decay"]) * (new[name] - average)
            averages[f"ema_{name}"] = torch.where(update, average + step, average)
    return averages


def _gradients(loss: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    found = dict(zip(parameters, gradients, strict=True))
    if missing := [name for name, gradient in found.items() if gradient is None]:
        raise ExportError(
            f"{len(missing)} trainable parameters do not reach the loss, among them "
            f"{missing[0]!r}; freeze them, or use them in the forward pass"
        )
    return found


@contextlib.contextmanager
def _mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model in training or evaluation mode within the context."""
    modes = {module: module.training for module in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
