"""A graph run repeatedly on its own outputs, which stay in the device's memory."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.runtime.sessions.devices import Device
from exportloss.runtime.sessions.graph_session import UNCAPTURED, graph_options
from exportloss.runtime.sessions.state_buffers import (
    OneBuffer,
    StateBuffers,
    Tensors,
    TwoBuffers,
)

__all__ = ["LARGE", "Outputs", "StepLoop"]

LARGE = 1 << 28  # bytes of a state

_NEW = "new_"
# ONNX Runtime frees its copies of pinned memory only in runs that it waits for, so one run in this
# many waits. So does the first run of a CUDA graph: memory cannot be allocated during its capture.
_RUNS_AT_ONCE = 32
_DTYPES = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(bool)": np.bool_}


class Outputs:
    """Outputs of a run other than the state, copied to the host when first read."""

    def __init__(self, loop: StepLoop) -> None:
        self._loop = loop
        self._arrays: dict[str, npt.NDArray[Any]] | None = None

    def read(self) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs by name; the first call waits for the run."""
        with self._loop.lock:
            if self._arrays is None:
                self._arrays = self._loop.fetch_outputs()
            return self._arrays


class StepLoop:
    """Runs a session whose outputs `new_...` are inputs of its next run.

    The state has two buffers a tensor (`TwoBuffers`), or on a CPU, where it takes more than `LARGE`
    bytes, one (`OneBuffer`): a second would be the larger part of what a step needs. All other
    tensors have one buffer. So every address is fixed, and one CUDA graph is captured per
    direction.

    On a GPU a run returns once the work is queued, and the first reader of a tensor waits for it:
    meanwhile the host prepares the next batch.

    Args:
        ort: The onnxruntime package, or the engine that `import_engine` returns in its place.
        session: Session of a graph with static shapes.
        device: Device of the session.
        capture: Whether the session was opened to capture CUDA graphs.
        beside: Loop of another graph whose state this one replaces too; by default the state is
            this loop's own.

    Attributes:
        lock: Lock held while outputs are read or buffers exchanged.
    """

    def __init__(
        self,
        ort: Any,
        session: Any,
        device: Device,
        *,
        capture: bool = False,
        beside: StepLoop | None = None,
    ) -> None:
        self._session = session
        self._device = device
        self._in_place = device.in_place
        self._ort = ort
        inputs = {value.name: value for value in session.get_inputs()}
        outputs = {value.name: value for value in session.get_outputs()}
        names = [name for name in inputs if f"{_NEW}{name}" in outputs]
        self._inputs = self._buffers(value for name, value in inputs.items() if name not in names)
        self._outputs = self._buffers(v for n, v in outputs.items() if not n.startswith(_NEW))
        if beside is None:
            size = sum(4 * math.prod(inputs[name].shape) for name in names)
            is_large = device.kind == "cpu" and size > LARGE
            self._state: StateBuffers = (OneBuffer if is_large else TwoBuffers)(
                names, lambda some: self._buffers(inputs[name] for name in some)
            )
        else:
            self._state = beside._state
        self.lock = self._state.lock
        self._bindings = [self._bind(*direction) for direction in self._state.directions]
        self._graphs = [side + 1 if capture else None for side in range(len(self._bindings))]
        self._runs = 0
        self._uncaptured: set[int | None] = {*self._graphs} - {None}
        self._last: weakref.ref[Outputs] | None = None

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Outputs:
        """Run once, given all inputs other than the state."""
        with self.lock:
            return self._run(inputs)

    def _run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Outputs:
        self._settle()
        state = self._state
        state.check_whole()
        for name, array in inputs.items():
            self._inputs[name].update_inplace(array)
        binding, graph = self._bindings[state.side], self._graphs[state.side]
        if not self._in_place:
            self._bind_inputs(binding, state.now)
        is_first = graph in self._uncaptured
        if is_first:  # allocates memory, which a capture must not do
            self._session.run_with_iobinding(binding, graph_options(self._ort, UNCAPTURED))
            self._uncaptured.remove(graph)
        options = graph_options(self._ort, graph)
        self._runs += 1
        may_return_early = not is_first and (graph is not None or self._runs % _RUNS_AT_ONCE)
        if self._in_place and may_return_early:
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        with state.replacing():
            self._session.run_with_iobinding(binding, options)
        state.running = binding
        outputs = Outputs(self)
        self._last = weakref.ref(outputs)
        return outputs

    def run_other(
        self, session: Any, inputs: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, npt.NDArray[Any]]:
        """Run another graph on the state, which replaces a part of it, and wait for it.

        Args:
            session: Session of a graph whose inputs are tensors of the state and `inputs`, and
                whose outputs `new_...` replace tensors of the state; the others stay as they are.
            inputs: Its other inputs by name.

        Returns:
            Its other outputs by name.
        """
        with self.lock:
            self._settle()
            self._state.check_whole()
            binding, now = session.io_binding(), self._state.now
            for value in session.get_inputs():
                if value.name in now:
                    binding.bind_ortvalue_input(value.name, now[value.name])
                else:
                    binding.bind_cpu_input(value.name, inputs[value.name])
            found = session.get_outputs()
            written = [v.name.removeprefix(_NEW) for v in found if v.name.startswith(_NEW)]
            scratch = self._state.scratch(written)
            outputs = self._buffers(v for v in found if not v.name.startswith(_NEW))
            for name, tensor in (outputs | {f"{_NEW}{n}": t for n, t in scratch.items()}).items():
                binding.bind_ortvalue_output(name, tensor)
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            self._state.adopt(scratch)
            return {name: np.array(output.numpy()) for name, output in outputs.items()}

    def check_whole(self) -> None:
        """Check that no step has failed while it changed a state of one buffer.

        Raises:
            TrainingError: one has.
        """
        self._state.check_whole()

    def value(self, name: str) -> Any:
        """Return a tensor of the state as an `OrtValue`, not copied; valid until the next run."""
        self._state.wait()
        return self._state.now[name]

    def read(self, name: str) -> npt.NDArray[Any]:
        """Copy a tensor of the state to the host."""
        return np.array(self.value(name).numpy())

    def write(self, name: str, array: npt.NDArray[Any]) -> None:
        """Set a tensor of the state."""
        self.value(name).update_inplace(array)

    def replace(self, arrays: Iterable[tuple[str, npt.NDArray[Any]]]) -> None:
        """Set all tensors of the state, given by name."""
        for name, array in arrays:
            self.write(name, array)
        self._state.is_whole = True

    def fetch_outputs(self) -> dict[str, npt.NDArray[Any]]:
        """Copy the outputs of the last run, without the state, to the host."""
        self._state.wait()
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}

    def _settle(self) -> None:
        """Wait for the last run, and read its outputs if they are still referenced."""
        outputs = None if self._last is None else self._last()
        if outputs is not None:
            outputs.read()
        self._state.wait()

    def _buffers(self, tensors: Iterable[Any]) -> Tensors:
        """Return a buffer for each input or output of a session."""
        return {
            tensor.name: self._device.empty(self._ort, tensor.shape, _DTYPES[tensor.type])
            for tensor in tensors
        }

    def _bind(self, old: Tensors, new: Tensors) -> Any:
        binding = self._session.io_binding()
        self._bind_inputs(binding, old)
        for name, value in (self._outputs | {f"{_NEW}{n}": t for n, t in new.items()}).items():
            binding.bind_ortvalue_output(name, value)
        return binding

    def _bind_inputs(self, binding: Any, old: Tensors) -> None:
        for name, value in (self._inputs | old).items():
            binding.bind_ortvalue_input(name, value)
