"""Training with the portable step, one graph of standard operators for any onnxruntime."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError, DataError
from exportloss.runtime.artifact.flat_layout import FlatLayout
from exportloss.runtime.artifact.manifest import STATE_NAME, Manifest
from exportloss.runtime.artifact.onnx_files.baked_model import with_initializers
from exportloss.runtime.artifact.onnx_files.model_checksum import add_model_checksum
from exportloss.runtime.artifact.state import TrainState, take_state
from exportloss.runtime.artifact.state_checks import check_values
from exportloss.runtime.artifact.tensor_file import parse_tensor_file
from exportloss.runtime.optimizers.table import LOSS_SCALE, Hyperparameters
from exportloss.runtime.sessions.checks.step_checks import (
    Rates,
    checked_hyperparameters,
    uint8_images,
)
from exportloss.runtime.sessions.devices import Device, describe_engine, import_engine
from exportloss.runtime.sessions.exclusive import exclusive
from exportloss.runtime.sessions.graph_session import node_counts, open_graph
from exportloss.runtime.sessions.session import TrainSession
from exportloss.runtime.sessions.step_loop import StepLoop
from exportloss.runtime.sessions.step_results import (
    Evaluation,
    Images,
    PendingStepResult,
    StepResult,
)
from exportloss.runtime.storage.files import new_file

__all__ = ["PortableTrainSession"]

Array = npt.NDArray[np.float32]
_OPTIMIZER = "optimizer_"
_EMA = "ema_"


class PortableTrainSession(TrainSession):
    """Session that runs `train_step.onnx` and keeps the state in the device's memory: `StepLoop`.

    Args:
        folder: Artifacts folder.
        manifest: Manifest of the folder.
        device: Device to train on.
        threads: Threads of ONNX Runtime within an operator.
        capture: Whether to capture CUDA graphs.
        tf32: Whether CUDA may compute products with 10 of float32's 23 mantissa bits.
        files: Content of the folder's files; by default they are read and compared with the
            manifest. Nothing is read later, since the folder may be replaced during a training.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        device: Device,
        threads: int,
        capture: bool,
        tf32: bool = False,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__(folder, manifest)
        files = manifest.read_files(folder) if files is None else files
        self._graphs = {name: content for name, content in files.items() if name != STATE_NAME}
        self._engine = import_engine(device)
        self._device = device
        self._threads = threads
        self._tf32 = tf32
        self._train = self._open("train_step.onnx", capture=capture)
        self._loop = StepLoop(self._engine, self._train, device, capture=capture)
        self._evaluation: Any = None  # opened when first needed: not every device evaluates
        self._update: Any = None  # opened when first needed
        self._frozen: Any = None  # opened when first needed
        self._from_features: Any = None  # opened when first needed
        self._feature_loop: StepLoop | None = None  # opened when first needed
        layout = manifest.layout
        assert layout is not None  # checked with the folder
        self._parameters = layout.parameters
        self._flat = {"parameters": layout.parameters}
        if layout.statistics.size:
            self._flat["statistics"] = layout.statistics
        self._optimizer_state = layout.optimizer_state
        self._constants: dict[str, Array] = {}
        path = folder / STATE_NAME
        start = take_state(parse_tensor_file(files[STATE_NAME], path), path)
        check_values(start, str(path))
        self._load_state(start)

    @property
    def engine(self) -> str:
        """Name and version of the engine that computes the steps."""
        return describe_engine(self._engine, self._device)

    @property
    def node_counts(self) -> dict[str, int]:
        """Number of nodes of the training step per provider of ONNX Runtime; {} if unknown."""
        return node_counts(self._train)

    @property
    def updates(self) -> int:
        """Number of optimizer steps done."""
        return int(self._loop.read("updates"))

    @exclusive
    def gradients(self) -> Mapping[str, Array]:
        """Return a copy of the gradients accumulated since the last update, by parameter."""
        views = self._parameters.split(self._loop.read("gradients"))
        return {name: view.copy() for name, view in views.items()}

    def _add_gradients(self, gradients: Mapping[str, Array]) -> None:
        total = self._loop.read("gradients")
        views = self._parameters.split(total)
        for name, tensor in gradients.items():
            np.add(views[name], tensor, out=views[name])
        self._loop.write("gradients", total)

    @exclusive
    def state(self) -> TrainState:
        """Return a copy of the state."""
        self._loop.check_whole()
        return self._any_state()

    def _any_state(self) -> TrainState:
        read = self._loop.read

        def tensors(flat: FlatLayout, vector: str) -> dict[str, Array]:
            return {name: tensor.copy() for name, tensor in flat.split(read(vector)).items()}

        def trained(prefix: str = "") -> dict[str, Array]:
            return {
                name: tensor
                for what, flat in self._flat.items()
                for name, tensor in tensors(flat, prefix + what).items()
            }

        return TrainState(
            model=self._constants | trained(),
            optimizer={
                kept: tensors(self._parameters, _OPTIMIZER + kept) for kept in self._optimizer_state
            },
            loss={name: read(name) for name in self.manifest.loss_state},
            updates=self.updates,
            skipped=self.skipped,
            ema=trained(_EMA) if self.manifest.ema else {},
        )

    def _load_state(self, state: TrainState) -> None:
        self._due = state.updates + state.skipped
        trained = {name for flat in self._flat.values() for name in flat.names}
        self._constants = {n: np.array(t) for n, t in state.model.items() if n not in trained}
        self._loop.replace(self._vectors(state))

    def _vectors(self, state: TrainState) -> Iterator[tuple[str, Array]]:
        """Yield the tensors of the graph one by one, as those of a large model are long."""
        for what, flat in self._flat.items():
            yield what, flat.join(state.model)
            if self.manifest.ema:
                yield _EMA + what, flat.join(state.ema)
        for kept in self._optimizer_state:
            yield _OPTIMIZER + kept, self._parameters.join(state.optimizer[kept])
        for name in self.manifest.loss_state:
            yield name, np.array(state.loss[name], np.float32)
        yield "updates", np.array(state.updates, np.float32)
        yield "gradients", np.zeros(self._parameters.size, np.float32)

    @exclusive
    def export_inference(self, path: str | Path, *, ema: bool = False) -> None:
        """Write the detector as a plain ONNX model: `images` in, `output0` out."""
        self._check_ema(ema)
        if "inference.onnx" not in self._graphs:
            raise ArtifactError(
                f"{self.folder} has no inference.onnx, because its model has no `decode`"
            )
        weights = {what: value.numpy() for what, value in self._weights(ema=ema).items()}
        with new_file(path) as temporary:
            model = with_initializers(self._graphs["inference.onnx"], weights)
            temporary.write_bytes(add_model_checksum(model))

    @exclusive
    def features(self, images: Images) -> dict[str, Array]:
        """Compute what the frozen layers make of a batch, which no training changes.

        The features of an image can be kept, and put together to batches anew: `step_features`
        trains on them without its frozen layers.

        Args:
            images: (B, 3, H, W) uint8, as for `step`.

        Returns:
            (B, ...) float32 by name.

        Raises:
            ArtifactError: the artifacts were exported without features.
        """
        if self._frozen is None:
            self._frozen = self._open_features("features.onnx")
        names = [output.name for output in self._frozen.get_outputs()]
        found = self._frozen.run(names, {"images": uint8_images(images, self.manifest)})
        return dict(zip(names, found, strict=True))

    @property
    @exclusive
    def feature_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the features of a batch, (B, ...), by name; errors as for `features`."""
        if self._from_features is None:
            self._from_features = self._open_features("train_features.onnx")
        inputs = self._from_features.get_inputs()
        return {v.name: tuple(v.shape) for v in inputs if v.name.startswith("feature_")}

    @exclusive
    def step_features(
        self,
        features: Mapping[str, Array],
        targets: npt.ArrayLike,
        *,
        lr: Rates,
        momentum: float = 0.937,
        weight_decay: float = 5e-4,
        max_norm: float = math.inf,
        update: bool = True,
        ema_decay: float | None = None,
        loss_scale: float = LOSS_SCALE,
    ) -> StepResult:
        """Train on the features of a batch; the result is that of `step` on its images.

        Args:
            features: (B, ...) float32 by name, as from `features`.
            targets: (n, 6) target rows, as for `step`.
            lr: As for `step`.
            momentum: As for `step`.
            weight_decay: As for `step`.
            max_norm: As for `step`.
            update: As for `step`.
            ema_decay: As for `step`.
            loss_scale: As for `step`.

        Raises:
            DataError: the features are not those of these artifacts.
            ArtifactError: the artifacts were exported without features.
            ExportLossError: as for `step`.
        """
        expected = dict(self.feature_shapes)
        got = {name: np.shape(array) for name, array in features.items()}
        if got != expected or any(array.dtype != np.float32 for array in features.values()):
            raise DataError(f"features are {got}; expected float32 {expected}, as from `features`")
        hyper = checked_hyperparameters(
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            max_norm=max_norm,
            ema_decay=self._ema_decay(ema_decay),
            loss_scale=loss_scale,
        )
        if self._feature_loop is None:
            self._feature_loop = StepLoop(
                self._engine, self._from_features, self._device, beside=self._loop
            )
        batch = {name: np.ascontiguousarray(array) for name, array in features.items()}
        batch["targets"] = self._targets(targets)
        result = self._run(self._feature_loop, batch, hyper if update else None)
        self._due += update
        return result

    def _open_features(self, name: str) -> Any:
        if name not in self._graphs:
            raise ArtifactError(
                f"{self.folder} has no {name}; freeze layers and export with features=True"
            )
        return self._open(name)

    def _images(self, images: Images) -> Images:
        """Check images; the graph itself divides them by 255."""
        return uint8_images(images, self.manifest)

    def _step(self, images: Images, targets: Array, hyper: Hyperparameters | None) -> StepResult:
        return self._run(self._loop, {"images": images, "targets": targets}, hyper)

    def _run(
        self, loop: StepLoop, batch: Mapping[str, npt.NDArray[Any]], hyper: Hyperparameters | None
    ) -> StepResult:
        settings = hyper or Hyperparameters(lr=(0.0, 0.0, 0.0))
        inputs = {**batch, **self._settings(settings), "update": np.array(hyper is not None)}
        if self.manifest.precision == "float16":
            inputs["loss_scale"] = np.array(settings.loss_scale, np.float32)
        return PendingStepResult(loop.run(inputs).read, terms=self._terms)

    def _settings(self, hyper: Hyperparameters) -> dict[str, npt.NDArray[Any]]:
        """Return the settings of an update by their names in the graphs."""
        settings = {
            "learning_rates": np.array(hyper.lr, np.float32),
            "momentum": np.array(hyper.momentum, np.float32),
            "weight_decay": np.array(hyper.weight_decay, np.float32),
            "max_norm": np.array(hyper.max_norm, np.float32),
        }
        if self.manifest.ema:
            settings["ema_decay"] = np.array(hyper.ema_decay, np.float32)
        return settings

    def _apply(self, gradients: Mapping[str, Array] | None, hyper: Hyperparameters) -> bool:
        if self._update is None:
            if "apply_step.onnx" not in self._graphs:
                raise ArtifactError(
                    f"{self.folder} has no apply_step.onnx, because an earlier version exported "
                    "it; export again to update without a batch"
                )
            self._update = self._open("apply_step.onnx")
        accumulated = None if gradients is None else self._loop.read("gradients")
        if gradients is not None:
            self._loop.write("gradients", self._parameters.join(gradients))
        skipped = bool(self._loop.run_other(self._update, self._settings(hyper))["skipped"])
        if skipped and accumulated is not None:
            self._loop.write("gradients", accumulated)
        return not skipped

    def _evaluate(self, images: Images, targets: Array, *, ema: bool) -> Evaluation:
        if self._evaluation is None:
            self._evaluation = self._open("eval_step.onnx")
        binding = self._evaluation.io_binding()
        binding.bind_cpu_input("images", images)
        binding.bind_cpu_input("targets", targets)
        state = {name: self._loop.value(name) for name in self.manifest.loss_state}
        for name, value in (self._weights(ema=ema) | state).items():
            binding.bind_ortvalue_input(name, value)
        for output in self._evaluation.get_outputs():
            binding.bind_output(output.name)
        self._evaluation.run_with_iobinding(binding)
        loss, items, *decoded = binding.copy_outputs_to_cpu()
        predictions = decoded[0] if decoded else self._no_boxes()
        return Evaluation(loss=float(loss), items=self._loss_terms(items), predictions=predictions)

    @exclusive
    def read_vector(self, name: str) -> Array:
        """Return a copy of a flat vector of the state, by its name in the graph.

        Args:
            name: Input of the graph that `layout` in the manifest describes: `parameters`,
                `statistics`, `gradients`, `optimizer_...`, or with a moving average `ema_...`.

        Returns:
            (P,) or, of statistics, (S,) float32; (0,) if the artifacts train no statistics.
        """
        if name == "statistics" and name not in self._flat:
            return np.zeros(0, np.float32)
        return self._loop.read(name)

    @exclusive
    def write_vector(self, name: str, vector: Array) -> None:
        """Set a flat vector of the state.

        Args:
            name: As for `read_vector`.
            vector: Values, of the shape that `read_vector` returns.

        Raises:
            ConfigError: the vector has another shape or type.
        """
        there = self.read_vector(name)
        if vector.shape != there.shape or vector.dtype != there.dtype:
            raise ConfigError(
                f"{name} is {vector.dtype} {vector.shape}; expected {there.dtype} {there.shape}",
                argument="vector",
            )
        if vector.size:
            self._loop.write(name, vector)

    @exclusive
    def skip_update(self) -> None:
        """Count an update as due and skipped; accumulated gradients stay for the next one."""
        self._due += 1

    def _weights(self, *, ema: bool) -> dict[str, Any]:
        """Return the vectors of the detector, by their names in the graphs."""
        prefix = _EMA if ema else ""
        return {what: self._loop.value(prefix + what) for what in self._flat}

    def _open(self, name: str, *, capture: bool = False) -> Any:
        session = open_graph(
            self._engine,
            self.folder / name,
            self._device,
            threads=self._threads,
            capture=capture,
            tf32=self._tf32,
            content=self._graphs[name],
        )
        del self._graphs[name]  # a graph has all frozen weights, and is opened once
        return session
