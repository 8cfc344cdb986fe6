"""A training session in eager torch, the reference for sessions that run artifacts."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from exportloss.errors import ArtifactError, ConfigError
from exportloss.export.verify.references import finite_loss, reference_loss
from exportloss.models import yolov5
from exportloss.runtime.artifact.manifest import Manifest, ParameterGroupNames
from exportloss.runtime.artifact.onnx_files.model_checksum import add_model_checksum
from exportloss.runtime.artifact.state import TrainState
from exportloss.runtime.optimizers.spec import OptimizerSpec, StateTensor
from exportloss.runtime.optimizers.table import OPTIMIZERS, Hyperparameters
from exportloss.runtime.sessions.session import (
    Evaluation,
    Images,
    StepResult,
    TrainSession,
)
from exportloss.runtime.storage.files import new_file

__all__ = ["EagerTrainSession", "torch_threads"]

Array = npt.NDArray[np.float32]


class EagerTrainSession(TrainSession):
    """The training that an artifact was exported from, in eager torch.

    The model is a torch module, the loss has the original's dynamic shapes (`reference_loss`),
    gradients are those of autograd and the optimizers torch's own. To start it from the state of an
    artifact's session, call `load_state(session.state())`.

    Args:
        folder: Folder of the artifact, for messages; it is not read.
        manifest: Manifest of the artifact: model, loss, optimizer and trainable parameters.
        model: Module that was exported, if not built by `exportloss.models`; it is copied.
        dtype: Element type, float32, or float64 for a reference with negligible rounding errors.
            States stay float32.

    Raises:
        ArtifactError: the manifest names no known model and none is given, or the model lacks
            parameters that the manifest trains.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        model: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(folder, manifest)
        self._dtype = dtype
        self._model = (_build(manifest) if model is None else copy.deepcopy(model)).cpu().to(dtype)
        self._parameters = dict(self._model.named_parameters())
        if missing := sorted(set(manifest.groups.all) - set(self._parameters)):
            raise ArtifactError(
                f"{folder} trains {len(missing)} parameters that the model lacks, among them "
                f"{missing[0]!r}; pass the model that was exported"
            )
        statistics = {
            name: buffer
            for name, buffer in self._model.named_buffers()
            if name.endswith(("running_mean", "running_var"))
        }
        self._tensors: dict[str, Tensor] = self._parameters | statistics
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in manifest.groups.all)
        self._average = {name: self._tensors[name].detach().clone() for name in manifest.averaged}
        assert manifest.optimizer is not None
        self._spec = OPTIMIZERS[manifest.optimizer]
        self._optimizer = _make_optimizer(self._spec, manifest.groups, self._parameters)
        self._updates = 0
        self._accumulates = False
        self._loss = reference_loss(manifest)
        # Early in training, lagging running statistics lead to predicted boxes of zero size in
        # evaluation, for which the loss of YOLOv5's original is NaN. Otherwise both are equal.
        self._finite_loss = finite_loss(manifest)
        self._loss_state = {
            name: torch.tensor(values) for name, values in manifest.loss_state.items()
        }

    @property
    def engine(self) -> str:
        """Name and version of the engine."""
        return f"eager torch {torch.__version__}"

    @property
    def updates(self) -> int:
        """Number of optimizer steps done."""
        return self._updates

    def state(self) -> TrainState:
        """Return a copy of the state."""
        return TrainState(
            model={name: _to_numpy(tensor) for name, tensor in self._tensors.items()},
            optimizer={
                kept.name: {name: _to_numpy(self._kept(name, kept)) for name in self._trainable}
                for kept in self._spec.state
            },
            loss={name: _to_numpy(tensor) for name, tensor in self._loss_state.items()},
            updates=self._updates,
            skipped=self.skipped,
            ema={name: _to_numpy(tensor) for name, tensor in self._average.items()},
        )

    @torch.no_grad()
    def _load_state(self, state: TrainState) -> None:
        for name, tensor in self._tensors.items():
            tensor.copy_(torch.tensor(state.model[name]))
        for name, tensor in self._average.items():
            tensor.copy_(torch.tensor(state.ema[name]))
        for name in self._trainable:
            entry = self._optimizer.state[self._parameters[name]]
            for kept in self._spec.state:
                tensor = torch.tensor(state.optimizer[kept.name][name], dtype=self._dtype)
                entry[kept.torch_name] = tensor
            entry["step"] = torch.tensor(float(state.updates))
        self._loss_state = {name: torch.tensor(state.loss[name]) for name in self._loss_state}
        self._updates = state.updates
        self._due = state.updates + state.skipped
        self._accumulates = False

    def gradients(self) -> Mapping[str, Array]:
        """Return a copy of the gradients of the last step, by parameter.

        Parameters that the loss does not reach have zeros.
        """
        trained = {name: self._parameters[name] for name in self._trainable}
        return {
            name: _to_numpy(torch.zeros_like(p) if p.grad is None else p.grad)
            for name, p in trained.items()
        }

    def export_inference(self, path: str | Path, *, ema: bool = False) -> None:
        """Write the detector as a plain ONNX model: `images` in, `output0` out."""
        import onnx_ir as ir

        from exportloss.export.torch_export import Signature, trace_to_onnx

        self._check_ema(ema)
        model = copy.deepcopy(self._model)
        model.load_state_dict(self._average if ema else {}, strict=False)
        example = torch.zeros(self.manifest.batch_size, 3, *self.manifest.image_size)
        graph = trace_to_onnx(
            _Decoded(model).eval(),
            (example,),
            Signature(inputs=["images"], outputs=["output0"]),
            state={},
            differentiable=False,
        )
        with new_file(path) as temporary:
            temporary.write_bytes(add_model_checksum(ir.to_proto(graph).SerializeToString()))

    @property
    def _trainable(self) -> tuple[str, ...]:
        return self.manifest.groups.all

    def _kept(self, name: str, kept: StateTensor) -> Tensor:
        parameter = self._parameters[name]
        tensor: Tensor | None = self._optimizer.state[parameter].get(kept.torch_name)
        return torch.full_like(parameter, kept.initial) if tensor is None else tensor

    def _step(self, images: Images, targets: Array, hyper: Hyperparameters | None) -> StepResult:
        self._train_mode()
        if not self._accumulates:
            self._optimizer.zero_grad()
        levels = self._model(torch.from_numpy(images).to(self._dtype))
        loss, items, after = self._loss(levels, torch.from_numpy(targets), self._loss_state)
        self._loss_state = dict(after)
        torch.autograd.backward(loss)
        if hyper is not None:
            self._update(hyper)
        # After an update the gradients are kept until the next step, for `gradients`.
        self._accumulates = hyper is None
        return StepResult(loss=loss.item(), items=self._loss_terms(items.numpy()))

    def _apply(self, gradients: Mapping[str, Array] | None, hyper: Hyperparameters) -> bool:
        for name, gradient in (self.gradients() if gradients is None else gradients).items():
            self._parameters[name].grad = torch.tensor(gradient, dtype=self._dtype)
        self._update(hyper)
        self._accumulates = False
        return True

    def _update(self, hyper: Hyperparameters) -> None:
        if math.isfinite(hyper.max_norm):
            trained = [self._parameters[name] for name in self._trainable]
            torch.nn.utils.clip_grad_norm_(trained, hyper.max_norm)
        decays = (hyper.weight_decay, 0.0, 0.0)
        for group, lr, decay in zip(self._optimizer.param_groups, hyper.lr, decays, strict=True):
            group["lr"], group["weight_decay"] = lr, decay
            group.update(self._spec.torch_options(hyper.momentum))
        self._optimizer.step()
        self._updates += 1
        for name, average in self._average.items():
            average.lerp_(self._tensors[name].detach(), 1 - hyper.ema_decay)

    @torch.no_grad()
    def _evaluate(self, images: Images, targets: Array, *, ema: bool) -> Evaluation:
        self._model.eval()
        batch = torch.from_numpy(images).to(self._dtype)
        levels = torch.func.functional_call(self._model, self._average if ema else {}, (batch,))
        state = {name: tensor.float() for name, tensor in self._loss_state.items()}
        loss, items, _ = self._finite_loss(levels, torch.from_numpy(targets), state)
        decode: Any = self._model.decode
        return Evaluation(
            loss=loss.item(),
            items=self._loss_terms(items.numpy()),
            predictions=_to_numpy(decode(levels)),
        )

    def _train_mode(self) -> None:
        """Enter training mode, except for BatchNorm layers that are frozen in the artifact."""
        self._model.train()
        trained = {norm.mean for norm in self.manifest.statistics}
        for name, module in self._model.named_modules():
            if isinstance(module, nn.BatchNorm2d) and f"{name}.running_mean" not in trained:
                module.eval()


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Set the threads that torch uses within an operator; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Decoded(nn.Module):
    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        decode: Any = self.detector.decode
        boxes: Tensor = decode(self.detector(images))
        return boxes


def _build(manifest: Manifest) -> nn.Module:
    anchors = [[side for anchor in level for side in anchor] for level in manifest.anchors]
    try:
        model = yolov5(manifest.model, manifest.num_classes, anchors=anchors)
    except ConfigError as error:
        raise ArtifactError(
            f"the artifact's model is {manifest.model!r}, which exportloss.models cannot build "
            f"({error}); pass the model that was exported"
        ) from error
    for norm in manifest.statistics:
        layer = model.get_submodule(norm.mean.removesuffix(".running_mean"))
        assert isinstance(layer, nn.BatchNorm2d)
        layer.momentum = norm.momentum
    return model


def _make_optimizer(
    spec: OptimizerSpec, names: ParameterGroupNames, parameters: Mapping[str, nn.Parameter]
) -> torch.optim.Optimizer:
    groups = [
        {"params": [parameters[name] for name in group], "weight_decay": 0.0}
        for group in (names.weights, names.norms, names.biases)
    ]
    kind: type[torch.optim.Optimizer] = getattr(torch.optim, spec.torch_class)
    return kind(groups, **spec.torch_options(0.9))  # each update sets its own momentum


def _to_numpy(tensor: Tensor) -> Array:
    array: Array = tensor.detach().float().numpy().copy()
    return array
