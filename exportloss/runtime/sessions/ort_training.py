"""Training with ONNX Runtime's training artifacts, through its C classes only."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError
from exportloss.runtime.artifact.manifest import BatchNormStatistics, Manifest
from exportloss.runtime.artifact.onnx_files.baked_model import with_initializers
from exportloss.runtime.artifact.onnx_files.model_checksum import add_model_checksum
from exportloss.runtime.artifact.onnx_files.onnx_file import parse_onnx
from exportloss.runtime.artifact.state import TrainState
from exportloss.runtime.artifact.state_checks import check_values
from exportloss.runtime.optimizers.ema import move_average
from exportloss.runtime.optimizers.table import (
    Hyperparameters,
    make_optimizer,
    sum_of_squares,
)
from exportloss.runtime.sessions.devices import CPU, Device
from exportloss.runtime.sessions.exclusive import exclusive
from exportloss.runtime.sessions.installation import (
    import_onnxruntime,
    import_onnxruntime_training,
)
from exportloss.runtime.sessions.ort_module import load_checkpoint, open_module
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.sessions.step_results import Evaluation, Images, StepResult
from exportloss.runtime.storage.files import new_file

__all__ = ["OrtTrainSession"]

Array = npt.NDArray[np.float32]
_LARGEST = float(np.finfo(np.float32).max)
_LATER = "eval_model.onnx"  # read again by `export_inference`
_WARNING = 3  # ONNX Runtime's severity above which it speaks


class OrtTrainSession(TrainSession):
    """Session in which ONNX Runtime computes loss and gradients, and numpy the update.

    ONNX Runtime's optimizers have one parameter group and no Nesterov momentum. On the CPU its
    parameters and gradients are numpy views, so YOLOv5's optimizers update them in place. On a GPU
    numpy sees copies: with every update, gradients are copied to the host and parameters back. The
    portable step needs no such copies.

    Args:
        folder: Artifacts folder.
        manifest: Manifest of the folder.
        threads: Threads of ONNX Runtime within an operator.
        device: Device to train on, `cpu` or `cuda`.
        copies: Whether to copy tensors as for a GPU; None for what the device needs.
        files: Content of the folder's files; by default they are read and compared with the
            manifest. ONNX Runtime reads copies in a temporary folder of the session.

    Raises:
        ConfigError: ONNX Runtime does not train on the device.
        InstallationError: the installed build has no training API, or cannot drive the device.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        threads: int,
        device: Device = CPU,
        copies: bool | None = None,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(folder, manifest)
        files = manifest.read_files(folder) if files is None else files
        self._detector = files.get("inference.onnx")  # None: exported by 0.1
        bindings = import_onnxruntime_training()
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _WARNING
        self._new_vector = ort.capi.onnxruntime_pybind11_state.OrtValueVector
        own = self._own_copies(files)
        self._state = load_checkpoint(bindings, own, folder, manifest)
        self._module = open_module(
            bindings, own, self._state, device=device, options=options, folder=folder
        )
        for name in files.keys() - {_LATER}:
            (own / name).unlink()
        self._values = {
            name: self._state.get_parameter(name).data for name in self._state.parameter_names()
        }
        # On the CPU these are views: writing to them changes what ONNX Runtime trains.
        self._copies = device.kind != "cpu" if copies is None else copies
        self._tensors: dict[str, Array] = {
            name: np.array(value.numpy()) if self._copies else value.numpy()
            for name, value in self._values.items()
        }
        assert manifest.optimizer is not None
        self._optimizer = make_optimizer(manifest.optimizer, manifest.groups, self._tensors)
        self._average = {name: self._tensors[name].copy() for name in manifest.averaged}
        self._loss_state = {k: np.array(v, np.float32) for k, v in manifest.loss_state.items()}
        self._accumulates = False  # whether there are gradients that no update has used
        self._added: dict[str, Array] = {}  # gradients from elsewhere, for the next update
        check_values(self.state(), str(folder / "checkpoint"))

    def _own_copies(self, files: Mapping[str, bytes]) -> Path:
        """Write files into a folder that only this user may enter, removed with the session."""
        try:
            own = Path(tempfile.mkdtemp(prefix="exportloss-"))
            weakref.finalize(self, shutil.rmtree, own, ignore_errors=True)
            for name, content in files.items():
                (own / name).write_bytes(content)
        except OSError as error:
            raise ArtifactError(
                f"{self.folder} cannot be copied for ONNX Runtime: {error}; free disk space, or "
                "set TMPDIR to a folder on a disk that has space"
            ) from error
        return own

    @exclusive
    def gradients(self) -> Mapping[str, Array]:
        """Return a copy of the gradients accumulated since the last update, by parameter."""
        if self._accumulates:
            return self._sum(self._gradients())
        # The last update overwrote them.
        zeros = {name: np.zeros_like(self._tensors[name]) for name in self.manifest.groups.all}
        return self._sum(zeros)

    def _add_gradients(self, gradients: Mapping[str, Array]) -> None:
        # Not in ONNX Runtime's memory, which its next step may reset.
        for name, tensor in gradients.items():
            self._added[name] = self._added.get(name, np.float32(0)) + tensor

    def _sum(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Return copies of gradients, with those from elsewhere added."""
        added = self._added
        return {n: t + added[n] if n in added else t.copy() for n, t in gradients.items()}

    def _gradients(self) -> Mapping[str, Array]:
        """Return ONNX Runtime's gradients by parameter, not copied, valid until the next step."""
        return {
            name: self._state.get_parameter(name).grad.numpy() for name in self.manifest.groups.all
        }

    @property
    def engine(self) -> str:
        """Name and version of the engine that computes the steps."""
        return f"the training build of onnxruntime {import_onnxruntime().__version__}"

    @property
    def updates(self) -> int:
        """Number of optimizer steps done."""
        return self._optimizer.updates

    @exclusive
    def state(self) -> TrainState:
        """Return a copy of the state."""
        return TrainState(
            model=_copies(self._tensors),
            optimizer={kept: _copies(entries) for kept, entries in self._optimizer.state.items()},
            loss=_copies(self._loss_state),
            updates=self.updates,
            skipped=self.skipped,
            ema=_copies(self._average),
        )

    def _load_state(self, state: TrainState) -> None:
        for name, tensor in self._tensors.items():
            np.copyto(tensor, state.model[name])
        self._push(self._tensors)
        for kept, entries in self._optimizer.state.items():
            for name, tensor in entries.items():
                np.copyto(tensor, state.optimizer[kept][name])
        for name, tensor in self._average.items():
            np.copyto(tensor, state.ema[name])
        for name, tensor in self._loss_state.items():
            np.copyto(tensor, state.loss[name])
        self._optimizer.updates = state.updates
        self._due = state.updates + state.skipped
        self._drop_gradients()

    @exclusive
    def export_inference(self, path: str | Path, *, ema: bool = False) -> None:
        """Write the detector as a plain ONNX model: `images` in, `output0` out."""
        self._check_ema(ema)
        model = self._detector
        if model is None:
            with self._weights(ema=ema), new_file(path) as temporary:
                try:
                    self._module.export_model_for_inferencing(str(temporary), ["output0"])
                except Exception as error:  # ONNX Runtime's errors have no common base
                    raise ArtifactError(
                        f"{self.folder}: its detector cannot be exported: "
                        f"{str(error).strip().splitlines()[-1]}"
                    ) from error
                temporary.write_bytes(add_model_checksum(temporary.read_bytes()))
            return
        tensors = self._average if ema else self._tensors
        weights = {name: tensors[name] for name in parse_onnx(model).inputs if name != "images"}
        with new_file(path) as temporary:
            temporary.write_bytes(add_model_checksum(with_initializers(model, weights)))

    def _step(self, images: Images, targets: Array, hyper: Hyperparameters | None) -> StepResult:
        # ONNX Runtime changes statistics and gradients before it is known whether they are finite.
        names = [name for norm in self.manifest.statistics for name in (norm.mean, norm.var)]
        statistics = _copies({name: self._tensors[name] for name in names})
        accumulated = _copies(self._gradients()) if self._accumulates else {}
        loss, items, *state = self._run(self._module.train_step, images, targets)
        self._pull(names)
        for norm in self.manifest.statistics:
            _unbias(self._tensors[norm.var], statistics[norm.var], norm)
        gradients = self._sum(self._gradients()) if self._added else self._gradients()
        results = [loss, *(self._tensors[name] for name in names)]
        squares = sum_of_squares(gradients.values())
        skipped = not (_all_finite(results) and squares <= _LARGEST)  # false for NaN
        if skipped:
            self._write(statistics)
            self._put_gradients(accumulated)
        else:
            self._push(names)
            self._loss_state = dict(zip(self._loss_state, state, strict=True))
            self._accumulates = True
            if hyper is not None:
                self._optimizer.step(self._tensors, gradients, hyper, squares=squares)
                self._push(self.manifest.groups.all)
                move_average(self._average, self._tensors, hyper.ema_decay)
                self._drop_gradients()
        return StepResult(loss=float(loss), items=self._loss_terms(items), skipped=skipped)

    def _apply(self, gradients: Mapping[str, Array] | None, hyper: Hyperparameters) -> bool:
        if gradients is None:
            gradients = self.gradients()
        squares = sum_of_squares(gradients.values())
        if not squares <= _LARGEST:  # true for NaN
            return False
        self._optimizer.step(self._tensors, _copies(gradients), hyper, squares=squares)
        self._push(self.manifest.groups.all)
        move_average(self._average, self._tensors, hyper.ema_decay)
        self._drop_gradients()
        return True

    def _evaluate(self, images: Images, targets: Array, *, ema: bool) -> Evaluation:
        with self._weights(ema=ema):
            loss, items, *more = self._run(self._module.eval_step, images, targets)
        decoded = more[len(self._loss_state) :]
        predictions = decoded[0] if decoded else self._no_boxes()
        return Evaluation(loss=float(loss), items=self._loss_terms(items), predictions=predictions)

    @contextlib.contextmanager
    def _weights(self, *, ema: bool) -> Iterator[None]:
        """Within this block, replace weights and statistics by their moving average."""
        if not ema:
            yield
            return
        trained = _copies({name: self._tensors[name] for name in self._average})
        self._write(self._average)
        try:
            yield
        finally:
            self._write(trained)

    def _write(self, tensors: Mapping[str, Array]) -> None:
        for name, tensor in tensors.items():
            np.copyto(self._tensors[name], tensor)
        self._push(tensors)

    def _pull(self, names: Iterable[str]) -> None:
        """Copy tensors from ONNX Runtime's memory, where they are not views."""
        if self._copies:
            for name in names:
                np.copyto(self._tensors[name], self._values[name].numpy())

    def _push(self, names: Iterable[str]) -> None:
        """Copy tensors to ONNX Runtime's memory, where they are not views."""
        if self._copies:
            for name in names:
                self._values[name].update_inplace(self._tensors[name])

    def _drop_gradients(self) -> None:
        self._put_gradients({})
        self._added = {}

    def _put_gradients(self, gradients: Mapping[str, Array]) -> None:
        """Replace the accumulated gradients; with none, the next step starts afresh."""
        self._accumulates = bool(gradients)
        if gradients:
            for name, tensor in gradients.items():
                self._state.get_parameter(name).grad.update_inplace(tensor)
        else:
            self._module.lazy_reset_grad()

    def _run(self, run: Any, images: Images, targets: Array) -> list[npt.NDArray[Any]]:
        outputs = self._new_vector()
        run([images, targets, *self._loss_state.values()], outputs)
        return [np.array(value.numpy()) for value in outputs]  # copies: the memory is reused


def _copies(tensors: Mapping[str, Array]) -> dict[str, Array]:
    return {name: tensor.copy() for name, tensor in tensors.items()}


def _all_finite(tensors: Iterable[Array]) -> bool:
    return all(np.isfinite(tensor).all() for tensor in tensors)


def _unbias(var: Array, old: Array, norm: BatchNormStatistics) -> None:
    """Correct a running variance in place that was updated with the biased batch variance.

    Torch updates it with the unbiased one, which is n / (n - 1) times as large.
    """
    ratio = np.float32(norm.count / (norm.count - 1))
    var *= ratio
    var -= old * np.float32((1 - norm.momentum) * (ratio - 1))
