"""Training with ONNX Runtime's training artifacts, through its C classes alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.balance import initial_balance
from exportloss.runtime.ema import move_average
from exportloss.runtime.files import new_file
from exportloss.runtime.installation import import_onnxruntime, import_onnxruntime_training
from exportloss.runtime.manifest import BatchNormStatistics, Manifest
from exportloss.runtime.optimizers import Hyperparameters, make_optimizer
from exportloss.runtime.session import Evaluation, Images, Items, StepResult, TrainSession
from exportloss.runtime.state import TrainState

__all__ = ["OrtTrainSession"]

Array = npt.NDArray[np.float32]
_WARNING = 3  # ONNX Runtime's severity above which it speaks


class OrtTrainSession(TrainSession):
    """ONNX Runtime computes loss and gradients; the update is done here, on its own memory.

    ONNX Runtime's optimizers know one parameter group and no Nesterov momentum. Its parameters and
    gradients are numpy views, so YOLOv5's optimizers run on them in place, without a copy.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int) -> None:
        super().__init__(folder, manifest)
        bindings = import_onnxruntime_training()
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _WARNING
        cpu = bindings.OrtDevice(bindings.OrtDevice.cpu(), bindings.OrtDevice.default_memory(), 0)
        self._new_vector = ort.capi.onnxruntime_pybind11_state.OrtValueVector
        self._state = bindings.load_checkpoint(str(folder / "checkpoint"))
        self._module = bindings.Module(
            str(folder / "training_model.onnx"),
            self._state,
            str(folder / "eval_model.onnx"),
            cpu,
            options,
        )
        # Zero-copy views: what is written here is what ONNX Runtime trains on.
        self._tensors: dict[str, Array] = {
            name: self._state.get_parameter(name).data.numpy()
            for name in self._state.parameter_names()
        }
        assert manifest.optimizer is not None
        self._optimizer = make_optimizer(manifest.optimizer, manifest.groups, self._tensors)
        self._average = {name: self._tensors[name].copy() for name in manifest.averaged}
        self._balance = np.asarray(initial_balance(len(manifest.strides)), np.float32)

    def gradients(self) -> Mapping[str, Array]:
        """Return the accumulated gradients by parameter; views, valid until the next step."""
        return {
            name: self._state.get_parameter(name).grad.numpy() for name in self.manifest.groups.all
        }

    @property
    def updates(self) -> int:
        """Optimizer steps done."""
        return self._optimizer.updates

    def state(self) -> TrainState:
        """Return a copy of the state."""
        return TrainState(
            model={name: tensor.copy() for name, tensor in self._tensors.items()},
            optimizer={
                memory: {name: tensor.copy() for name, tensor in entries.items()}
                for memory, entries in self._optimizer.memory.items()
            },
            balance=self._balance.copy(),
            updates=self.updates,
            ema={name: tensor.copy() for name, tensor in self._average.items()},
        )

    def load_state(self, state: TrainState) -> None:
        """Take over a state of the same model."""
        for name, tensor in self._tensors.items():
            np.copyto(tensor, state.model[name])
        for memory, entries in self._optimizer.memory.items():
            for name, tensor in entries.items():
                np.copyto(tensor, state.optimizer[memory][name])
        for name, tensor in self._average.items():
            np.copyto(tensor, state.ema[name])
        np.copyto(self._balance, state.balance)
        self._optimizer.updates = state.updates
        self._module.lazy_reset_grad()

    def export_inference(self, path: str | Path, *, ema: bool = False) -> None:
        """Write the detector as a plain ONNX model: `images` in, `output0` out."""
        self._check_ema(ema)
        with self._weights(ema=ema), new_file(path) as temporary:
            self._module.export_model_for_inferencing(str(temporary), ["output0"])

    def _step(self, images: Images, targets: Array, hyper: Hyperparameters | None) -> StepResult:
        before = [self._tensors[norm.var].copy() for norm in self.manifest.statistics]
        loss, items, balance = self._run(self._module.train_step, images, targets)
        for norm, old in zip(self.manifest.statistics, before, strict=True):
            _unbias(self._tensors[norm.var], old, norm)
        self._balance = balance
        if hyper is not None:
            self._optimizer.step(self._tensors, self.gradients(), hyper)
            move_average(self._average, self._tensors, hyper.ema_decay)
            self._module.lazy_reset_grad()
        return StepResult(loss=float(loss), items=Items(*items.tolist()))

    def _evaluate(self, images: Images, targets: Array, *, ema: bool) -> Evaluation:
        with self._weights(ema=ema):
            loss, items, _, *decoded = self._run(self._module.eval_step, images, targets)
        predictions = decoded[0] if decoded else self._no_boxes()
        return Evaluation(loss=float(loss), items=Items(*items.tolist()), predictions=predictions)

    @contextlib.contextmanager
    def _weights(self, *, ema: bool) -> Iterator[None]:
        """Put the moving average in the place of the weights and statistics for a while."""
        if not ema:
            yield
            return
        trained = {name: self._tensors[name].copy() for name in self._average}
        self._write(self._average)
        try:
            yield
        finally:
            self._write(trained)

    def _write(self, tensors: Mapping[str, Array]) -> None:
        for name, tensor in tensors.items():
            np.copyto(self._tensors[name], tensor)

    def _run(self, run: Any, images: Images, targets: Array) -> list[npt.NDArray[Any]]:
        outputs = self._new_vector()
        run([images, targets, self._balance], outputs)
        return [np.array(value.numpy()) for value in outputs]  # their memory is reused


def _unbias(var: Array, old: Array, norm: BatchNormStatistics) -> None:
    """Turn a running variance that took in the biased batch variance into torch's, in place.

    Torch's running variance takes in the unbiased one, which is n / (n - 1) times as large.
    """
    ratio = np.float32(norm.count / (norm.count - 1))
    var *= ratio
    var -= old * np.float32((1 - norm.momentum) * (ratio - 1))
