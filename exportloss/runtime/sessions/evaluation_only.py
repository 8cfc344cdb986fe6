"""A session that evaluates and never trains: for a server, or a device that only detects."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError
from exportloss.runtime.artifact.manifest import STATE_NAME, Manifest
from exportloss.runtime.artifact.onnx_files.baked_model import with_initializers
from exportloss.runtime.artifact.onnx_files.model_checksum import add_model_checksum
from exportloss.runtime.artifact.state import TrainState, take_state
from exportloss.runtime.artifact.state_checks import check_values
from exportloss.runtime.artifact.tensor_file import parse_tensor_file
from exportloss.runtime.optimizers.table import Hyperparameters
from exportloss.runtime.sessions.checks.step_checks import uint8_images
from exportloss.runtime.sessions.devices import Device, describe_engine, import_engine
from exportloss.runtime.sessions.exclusive import exclusive
from exportloss.runtime.sessions.graph_session import open_graph
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.sessions.step_results import Evaluation, Images, StepResult
from exportloss.runtime.storage.files import new_file

__all__ = ["EvaluationOnlySession"]

Array = npt.NDArray[np.float32]


class EvaluationOnlySession(TrainSession):
    """Session of a portable step that opens `eval_step.onnx` and not the graph that trains.

    It needs a fraction of the memory, and opens faster. Weights and states are loaded, saved and
    exported as by any session; what trains raises `ConfigError`.

    Args:
        folder: Artifacts folder.
        manifest: Manifest of the folder.
        device: Device to evaluate on.
        threads: Threads of ONNX Runtime within an operator.
        files: Content of the folder's files.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        device: Device,
        threads: int,
        files: Mapping[str, bytes],
    ) -> None:
        super().__init__(folder, manifest)
        self._device = device
        self._engine = import_engine(device)
        self._detector = files.get("inference.onnx")
        self._evaluation: Any = open_graph(
            self._engine,
            folder / "eval_step.onnx",
            device,
            threads=threads,
            content=files["eval_step.onnx"],
        )
        self._outputs = [output.name for output in self._evaluation.get_outputs()]
        layout = manifest.layout
        assert layout is not None  # checked with the folder
        self._flat = {"parameters": layout.parameters}
        if layout.statistics.size:
            self._flat["statistics"] = layout.statistics
        path = folder / STATE_NAME
        self._state = take_state(parse_tensor_file(files[STATE_NAME], path), path)
        check_values(self._state, str(path))
        self._load_state(self._state)

    @property
    def engine(self) -> str:
        """Name and version of the engine that evaluates."""
        return describe_engine(self._engine, self._device)

    @property
    def updates(self) -> int:
        """Number of optimizer steps that the loaded state has done."""
        return self._state.updates

    @exclusive
    def state(self) -> TrainState:
        """Return a copy of the state."""
        return _copied(self._state)

    def _load_state(self, state: TrainState) -> None:
        self._state = _copied(state)
        self._due = state.updates + state.skipped

    def gradients(self) -> Mapping[str, Array]:
        """Raise `ConfigError`."""
        self._refuse("gradients")

    def _apply(self, gradients: Mapping[str, Array] | None, hyper: Hyperparameters) -> bool:
        self._refuse("apply_gradients")

    def _add_gradients(self, gradients: Mapping[str, Array]) -> None:
        self._refuse("add_gradients")

    def _step(self, images: Images, targets: Array, hyper: Hyperparameters | None) -> StepResult:
        self._refuse("step")

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            f"{what} is for training, but the session of {self.folder} was opened with "
            "evaluation_only=True; open it without",
            argument="evaluation_only",
        )

    @exclusive
    def export_inference(self, path: str | Path, *, ema: bool = False) -> None:
        """Write the detector as a plain ONNX model: `images` in, `output0` out."""
        self._check_ema(ema)
        if self._detector is None:
            raise ArtifactError(
                f"{self.folder} has no inference.onnx, because its model has no `decode`"
            )
        with new_file(path) as temporary:
            model = with_initializers(self._detector, self._weights(ema=ema))
            temporary.write_bytes(add_model_checksum(model))

    def _images(self, images: Images) -> Images:
        return uint8_images(images, self.manifest)

    def _evaluate(self, images: Images, targets: Array, *, ema: bool) -> Evaluation:
        inputs = {"images": images, "targets": targets} | dict(self._state.loss)
        inputs |= self._weights(ema=ema)
        loss, items, *decoded = self._evaluation.run(self._outputs, inputs)
        predictions = decoded[0] if decoded else self._no_boxes()
        return Evaluation(loss=float(loss), items=self._loss_terms(items), predictions=predictions)

    def _weights(self, *, ema: bool) -> dict[str, Array]:
        tensors = self._state.ema if ema else self._state.model
        return {what: flat.join(tensors) for what, flat in self._flat.items()}


def _copied(state: TrainState) -> TrainState:
    def copies(tensors: Mapping[str, Array]) -> dict[str, Array]:
        return {name: np.array(tensor) for name, tensor in tensors.items()}

    return TrainState(
        model=copies(state.model),
        optimizer={kept: copies(entries) for kept, entries in state.optimizer.items()},
        loss=copies(state.loss),
        updates=state.updates,
        skipped=state.skipped,
        ema=copies(state.ema),
    )
