"""A graph run repeatedly on its own outputs, which stay in the device's memory."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import TrainingError
from exportloss.runtime.sessions.devices import Device
from exportloss.runtime.sessions.graph_session import UNCAPTURED, graph_options

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

    Each tensor of the state has two buffers. A run reads one set and writes the other, so nothing
    is copied, and a run that fails changes nothing. Updating in place would also be wrong: before
    ONNX Runtime captures a CUDA graph it runs it a few times, and each run would advance the state
    (onnxruntime issue 32243). All other tensors have one buffer. So every address is fixed, and one
    CUDA graph is captured per direction.

    A state of more than `LARGE` bytes has one buffer on a CPU, or the second would be the larger
    part of what a step needs. Its graph writes a tensor once all that read it are done. A run that
    fails may then have changed a part of the state, which has to be loaded again.

    On a GPU a run returns once the work is queued, and the first reader of a tensor waits for it:
    meanwhile the host prepares the next batch.

    Args:
        ort: The onnxruntime package, or the engine that `import_engine` returns in its place.
        session: Session of a graph with static shapes.
        device: Device of the session.
        capture: Whether the session was opened to capture CUDA graphs.

    Attributes:
        lock: Lock held while outputs are read or buffers exchanged.
    """

    def __init__(self, ort: Any, session: Any, device: Device, *, capture: bool) -> None:
        self.lock = threading.RLock()
        self._session = session
        self._device = device
        self._in_place = device.in_place
        inputs = {value.name: value for value in session.get_inputs()}
        outputs = {value.name: value for value in session.get_outputs()}
        state = [name for name in inputs if f"{_NEW}{name}" in outputs]

        def buffers(names: Sequence[str], tensors: Mapping[str, Any]) -> dict[str, Any]:
            return {
                name: device.empty(ort, tensors[name].shape, _DTYPES[tensors[name].type])
                for name in names
            }

        self._inputs = buffers([name for name in inputs if name not in state], inputs)
        self._outputs = buffers([name for name in outputs if not name.startswith(_NEW)], outputs)
        self._state = buffers(state, inputs)
        size = sum(4 * math.prod(inputs[name].shape) for name in state)
        self._once = device.kind == "cpu" and size > LARGE
        self._spare = self._state if self._once else buffers(state, inputs)
        self._is_torn = False
        self._ort = ort
        self._directions = [
            (self._bind(self._state, self._spare), 1 if capture else None),
            (self._bind(self._spare, self._state), 2 if capture else None),
        ]
        self._runs = 0
        self._uncaptured: set[int | None] = {graph for _, graph in self._directions} - {None}
        self._running: Any = None  # binding of a run that has not been waited for
        self._last: weakref.ref[Outputs] | None = None

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Outputs:
        """Run once, given all inputs other than the state."""
        with self.lock:
            return self._run(inputs)

    def _run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Outputs:
        self._settle()
        self.check_whole()
        for name, array in inputs.items():
            self._inputs[name].update_inplace(array)
        binding, graph = self._directions[0]
        if not self._in_place:
            self._bind_inputs(binding, self._state)
        is_first = graph in self._uncaptured
        if is_first:  # allocates memory, which a capture must not do
            self._session.run_with_iobinding(binding, graph_options(self._ort, UNCAPTURED))
            self._uncaptured.remove(graph)
        options = graph_options(self._ort, graph)
        self._runs += 1
        may_return_early = not is_first and (graph is not None or self._runs % _RUNS_AT_ONCE)
        if self._in_place and may_return_early:
            options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._is_torn = self._once  # until the run is complete
        self._session.run_with_iobinding(binding, options)
        self._is_torn = False
        self._exchange()
        self._running = binding
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
            self.check_whole()
            binding, kept = session.io_binding(), dict(self._state)
            new: dict[str, Any] = {}
            for value in session.get_inputs():
                if value.name in self._state:
                    binding.bind_ortvalue_input(value.name, self._state[value.name])
                else:
                    binding.bind_cpu_input(value.name, inputs[value.name])
            outputs: dict[str, Any] = {}
            for value in session.get_outputs():
                name = value.name.removeprefix(_NEW)
                is_state = name != value.name
                if is_state and not self._once:
                    binding.bind_ortvalue_output(value.name, self._spare[name])
                    del kept[name]
                    continue
                # In place it could overwrite what it has still to read, such as the gradients.
                array = self._device.empty(self._ort, value.shape, _DTYPES[value.type])
                (new if is_state else outputs)[name] = array
                binding.bind_ortvalue_output(value.name, array)
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            if self._once:
                for name, tensor in new.items():
                    self._state[name].update_inplace(tensor.numpy())
            else:
                for name, tensor in kept.items():
                    self._spare[name].update_inplace(tensor.numpy())
            self._exchange()
            return {name: np.array(output.numpy()) for name, output in outputs.items()}

    def check_whole(self) -> None:
        """Check that no step has failed while it changed a state of one buffer.

        Raises:
            TrainingError: one has.
        """
        if self._is_torn:
            raise TrainingError(
                "a step failed while it changed the state, of which only a part is new now; load "
                "the state that was saved last"
            )

    def _exchange(self) -> None:
        self._directions.reverse()
        self._state, self._spare = self._spare, self._state

    def value(self, name: str) -> Any:
        """Return a tensor of the state as an `OrtValue`, not copied; valid until the next run."""
        self._wait()
        return self._state[name]

    def read(self, name: str) -> npt.NDArray[Any]:
        """Copy a tensor of the state to the host."""
        return np.array(self.value(name).numpy())

    def write(self, name: str, array: npt.NDArray[Any]) -> None:
        """Set a tensor of the state."""
        self._wait()
        self._state[name].update_inplace(array)

    def replace(self, arrays: Iterable[tuple[str, npt.NDArray[Any]]]) -> None:
        """Set all tensors of the state, given by name."""
        for name, array in arrays:
            self.write(name, array)
        self._is_torn = False

    def fetch_outputs(self) -> dict[str, npt.NDArray[Any]]:
        """Copy the outputs of the last run, without the state, to the host."""
        self._wait()
        return {name: np.array(value.numpy()) for name, value in self._outputs.items()}

    def _settle(self) -> None:
        """Wait for the last run, and read its outputs if they are still referenced."""
        outputs = None if self._last is None else self._last()
        if outputs is not None:
            outputs.read()
        self._wait()

    def _wait(self) -> None:
        if self._running is not None:
            self._running.synchronize_outputs()
            self._running = None

    def _bind(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> Any:
        binding = self._session.io_binding()
        self._bind_inputs(binding, old)
        for name, value in self._outputs.items():
            binding.bind_ortvalue_output(name, value)
        for name, value in new.items():
            binding.bind_ortvalue_output(f"{_NEW}{name}", value)
        return binding

    def _bind_inputs(self, binding: Any, old: Mapping[str, Any]) -> None:
        for name, value in (self._inputs | dict(old)).items():
            binding.bind_ortvalue_input(name, value)
