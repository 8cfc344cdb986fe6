"""`LossSession`: the loss alone and its gradients, for a network that another engine runs."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, DataError
from exportloss.runtime.artifact.check import Artifact, open_artifact
from exportloss.runtime.artifact.kinds import KINDS
from exportloss.runtime.artifact.limits import check_threads
from exportloss.runtime.artifact.loss_signature import gradient_name, loss_inputs, loss_outputs
from exportloss.runtime.artifact.onnx_files.onnx_file import OnnxValue, parse_onnx
from exportloss.runtime.sessions.checks.self_check import check_outputs
from exportloss.runtime.sessions.checks.target_check import check_target
from exportloss.runtime.sessions.devices import (
    Device,
    describe_engine,
    import_engine,
    wants_capture,
)
from exportloss.runtime.sessions.exclusive import exclusive
from exportloss.runtime.sessions.graph_session import UNCAPTURED, graph_options, open_graph
from exportloss.runtime.sessions.step_results import LossTerms
from exportloss.targets import pad_targets

__all__ = ["LossResult", "LossSession"]

# CUDA graphs captured per session, one per set of input addresses.
_MOST_GRAPHS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossResult:
    """The loss of a batch.

    Attributes:
        loss: Sum of the loss terms, times the batch size.
        items: Terms of the loss, before the multiplication by the batch size.
        state: State of the loss for the next batch by name, such as the objectness weights
            `balance`, (nl,), of YOLOv5's, which only autobalance changes; empty if it has none.
        gradients: Gradients of the loss with respect to the inputs, each in its input's shape, as
            `OrtValue`s in the device's memory: `gradient_0`, ... of the predictions or features;
            for layout `head-input` also `weight_gradient_0`, ... and `bias_gradient_0`, ... Empty
            if the artifact was exported without gradients. The next batch overwrites them.
        slots: Number of target rows of the graph that computed the loss.
    """

    loss: float
    items: LossTerms
    state: Mapping[str, npt.NDArray[np.float32]]
    gradients: Mapping[str, Any]
    slots: int

    @property
    def balance(self) -> npt.NDArray[np.float32]:
        """(nl,) objectness weights of YOLOv5's loss for the next batch."""
        return self.state["balance"]


class LossSession:
    """A loss alone (`exportloss export --format loss`) on this device.

    Open one with `LossSession.open(folder)`. A folder may have several graphs, each for a number of
    target rows; a batch goes to the smallest graph that has the capacity, which is opened when
    first needed. All graphs write into the same memory.

    On CUDA a graph's kernels are captured, and replayed for inputs at the same addresses: pass the
    same `OrtValue`s every time, or numpy arrays.
    """

    def __init__(
        self,
        folder: Path,
        artifact: Artifact,
        *,
        device: Device,
        threads: int,
        capture: bool,
        self_check: bool = True,
    ) -> None:
        self._lock = threading.RLock()
        self.folder = folder
        self.manifest = manifest = artifact.manifest
        self._files = artifact.files
        self._engine = import_engine(device)
        self._device = device
        self._self_check = self_check and device.kind != "cpu"
        self._threads = threads
        self._capture = capture
        self._copies: dict[tuple[str, tuple[int, ...]], Any] = {}  # of arrays, on the device
        self._graphs: dict[tuple[int, ...], int] = {}  # CUDA graphs by target rows and addresses
        self._uncaptured: set[int | None] = set()
        self._sessions: dict[int, Any] = {}  # by number of target rows
        graph = parse_onnx(self._files[manifest.loss_graphs[manifest.max_targets]])
        self._shapes = {name: _sizes(graph.inputs[name]) for name in loss_inputs(manifest)}
        self._outputs = {
            name: device.empty(self._engine, _sizes(graph.outputs[name]), np.float32)
            for name in loss_outputs(manifest)
        }

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        threads: int = 0,
        cuda_graph: bool | None = None,
        self_check: bool = True,
    ) -> LossSession:
        """Open an artifacts folder, once all of it has been checked against its manifest.

        Args:
            folder: Folder that `exportloss export --format loss` wrote.
            device: Device's name, as for `TrainSession.open`.
            threads: Threads of the engine within an operator, up to 1,024; 0 for every core.
            cuda_graph: Whether to capture CUDA graphs; None for yes where that is safe.
            self_check: Whether to compare the first batch of each graph with ONNX Runtime's CPU
                provider, on any other device: some engines compute wrongly without an error.

        Raises:
            ArtifactError: the folder is not an artifact, is damaged, or holds a detector.
            ConfigError: the device is unknown, or is not the CPU for a loss exported for the CPU;
                or the number of threads is negative or too large.
            InstallationError: the installed engine cannot run the artifact, or not on that device.
                Nothing ever falls back to the CPU.
        """
        where = Device.parse(device)
        if threads != 0:
            check_threads("threads", threads)
        folder = Path(folder)
        artifact = open_artifact(folder)
        manifest = artifact.manifest
        kind = KINDS[manifest.kind]
        if kind.opener != "LossSession":
            raise ArtifactError(
                f"{folder} holds a {kind.name!r} artifact, not a loss alone; open it with "
                f"{kind.opener}, or export in format 'loss'"
            )
        check_target(folder, manifest, where)
        return cls(
            folder,
            artifact,
            device=where,
            threads=threads or os.cpu_count() or 1,
            capture=wants_capture(import_engine(where), where, cuda_graph),
            self_check=self_check,
        )

    @property
    def input_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the inputs of `compute`, by name."""
        return dict(self._shapes)

    @exclusive
    def compute(
        self,
        inputs: Mapping[str, Any],
        targets: npt.ArrayLike,
        *,
        balance: npt.ArrayLike | None = None,
        state: Mapping[str, npt.ArrayLike] | None = None,
    ) -> LossResult:
        """Compute the loss of a batch and, if the artifact was exported with them, its gradients.

        Args:
            inputs: Float32 inputs, by the names and of the shapes in `input_shapes`: numpy arrays
                (read in place on the CPU if contiguous) or `OrtValue`s. Their names depend on the
                artifact's layout, see `exportloss.export.export_loss`.
            targets: (n, 6) target rows: image, class, x, y, width, height, normalised; n <= the
                manifest's `max_targets`. Trailing rows of zeros cost nothing.
            balance: (nl,) objectness weights of the levels, short for `state={"balance": ...}`.
            state: State of the loss by name, such as the last result's; by default the initial one.

        Returns:
            The loss of the batch, with gradients that are valid until the next call.

        Raises:
            DataError: an input or a tensor of the state is missing or unknown, or has the wrong
                type or shape.
            TargetError: a target row cannot be trained on.
            TooManyTargetsError: there are more rows than the largest graph takes.
            DeviceError: the device's loss differs from the CPU's; see `self_check`.
        """
        manifest = self.manifest
        padded = pad_targets(
            targets,
            manifest.max_targets,
            batch_size=manifest.batch_size,
            num_classes=manifest.num_classes,
        )
        rows = min(rows for rows in manifest.loss_graphs if rows >= _filled(padded))
        values = self._checked(inputs)
        values["targets"] = padded[:rows]
        given = state if balance is None else {**(state or {}), "balance": balance}
        values |= self._checked_state(given)
        self._run(rows, values)
        found = self._outputs
        return LossResult(
            loss=float(found["loss"].numpy()),
            items=LossTerms(*found["items"].numpy().tolist(), names=manifest.loss_kind.terms),
            state={name: np.array(found[f"new_{name}"].numpy()) for name in manifest.loss_state},
            gradients={
                name: found[name] for name in map(gradient_name, self._shapes) if name in found
            },
            slots=rows,
        )

    def _run(self, rows: int, inputs: Mapping[str, Any]) -> None:
        if rows in self._sessions:
            self._run_on(rows, self._sessions[rows], inputs)
            return
        name = self.manifest.loss_graphs[rows]
        # With an arena of its own, each session would keep its peak memory.
        session = open_graph(
            self._engine,
            self.folder / name,
            self._device,
            threads=self._threads,
            capture=self._capture,
            shared=bool(self.manifest.tiers),
            content=self._files[name],
        )
        self._run_on(rows, session, inputs)
        if self._self_check:
            check_outputs(
                self.folder / name,
                self._files[name],
                {name: _on_host(value) for name, value in inputs.items()},
                {name: _on_host(value) for name, value in self._outputs.items()},
                what="a loss",
                device=self._device,
                engine=describe_engine(self._engine, self._device),
            )
        self._sessions[rows] = session

    def _run_on(self, rows: int, session: Any, inputs: Mapping[str, Any]) -> None:
        binding = session.io_binding()  # a new one, so that no input outlives the call
        values = {name: self._on_device(name, value) for name, value in inputs.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in self._outputs.items():
            binding.bind_ortvalue_output(name, value)
        graph = self._graph_of(rows, values)
        if graph in self._uncaptured:  # allocates memory, which a capture must not do
            session.run_with_iobinding(binding, graph_options(self._engine, UNCAPTURED))
            self._uncaptured.remove(graph)
        session.run_with_iobinding(binding, graph_options(self._engine, graph))

    def _graph_of(self, rows: int, values: Mapping[str, Any]) -> int | None:
        """Return the number of the CUDA graph of these addresses.

        `UNCAPTURED` for further addresses after `_MOST_GRAPHS`; None if nothing is captured.
        """
        if not self._capture:
            return None
        addresses = (rows, *(value.data_ptr() for value in values.values()))
        if addresses not in self._graphs and len(self._graphs) < _MOST_GRAPHS:
            self._graphs[addresses] = len(self._graphs) + 1
            self._uncaptured.add(self._graphs[addresses])
        return self._graphs.get(addresses, UNCAPTURED)

    def _on_device(self, name: str, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if self._device.kind == "cpu":
            return self._engine.OrtValue.ortvalue_from_numpy(value, *self._device.memory)
        copy = self._copies.get((name, value.shape))
        if copy is None:
            copy = self._device.empty(self._engine, value.shape, value.dtype)
            self._copies[name, value.shape] = copy
        copy.update_inplace(np.ascontiguousarray(value))
        return copy

    def _checked(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        if inputs.keys() != self._shapes.keys():
            raise DataError(
                f"inputs are {', '.join(map(str, inputs)) or 'none'}; expected "
                f"{', '.join(self._shapes)}"
            )
        for name, shape in self._shapes.items():
            if (found := self._describe(inputs[name])) != ("float32", shape):
                raise DataError(
                    f"{name} is {found[0]} {found[1]}; the graph was exported for float32 {shape}, "
                    "as a numpy array or OrtValue"
                )
        return dict(inputs)

    def _describe(self, value: Any) -> tuple[str, tuple[int, ...]]:
        if isinstance(value, np.ndarray):
            return str(value.dtype), value.shape
        if isinstance(value, self._engine.OrtValue) and value.is_tensor():
            kind = value.data_type()
            return "float32" if kind == "tensor(float)" else kind, tuple(value.shape())
        return type(value).__name__, tuple(getattr(value, "shape", ()))

    def _checked_state(
        self, given: Mapping[str, npt.ArrayLike] | None
    ) -> dict[str, npt.NDArray[np.float32]]:
        initial = self.manifest.loss_state
        state = {name: np.array(values, np.float32) for name, values in (given or initial).items()}
        if state.keys() != initial.keys():
            raise DataError(
                f"the state of the loss is {', '.join(map(str, state)) or 'none'}; expected "
                f"{', '.join(initial) or 'none'}"
            )
        for name, values in initial.items():
            if state[name].shape != (len(values),):
                raise DataError(f"{name} has shape {state[name].shape}; expected ({len(values)},)")
        return state


def _on_host(value: Any) -> npt.NDArray[Any]:
    return value if isinstance(value, np.ndarray) else value.numpy()


def _sizes(value: OnnxValue) -> tuple[int, ...]:
    return tuple(int(size) for size in value.shape or ())  # the check leaves no named sizes


def _filled(padded: npt.NDArray[np.float32]) -> int:
    """Count the rows up to the last non-zero one; the padding after it matches nothing."""
    rows = np.flatnonzero(padded.any(axis=1))
    return int(rows[-1]) + 1 if rows.size else 0
