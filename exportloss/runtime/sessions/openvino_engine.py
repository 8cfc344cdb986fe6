"""OpenVINO behind ONNX Runtime's interface, as far as the sessions here use it.

A session of ONNX Runtime binds its inputs and outputs once and then runs many times; OpenVINO's
infer requests do the same under other names.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, InstallationError
from exportloss.runtime.artifact.onnx_files.onnx_file import OnnxFile, parse_onnx
from exportloss.runtime.sessions.installation import how_to_install

__all__ = ["OpenvinoEngine", "OpenvinoValue"]

AnyArray = npt.NDArray[Any]

# ONNX Runtime's names of OpenVINO's element types.
_TYPES = {
    "f32": "tensor(float)",
    "f16": "tensor(float16)",
    "u8": "tensor(uint8)",
    "i64": "tensor(int64)",
    "boolean": "tensor(bool)",
}


class OpenvinoValue:
    """Tensor that OpenVINO reads and writes in place, like `onnxruntime.OrtValue`."""

    def __init__(self, array: AnyArray) -> None:
        openvino = _import_openvino()
        self._array = array
        self.tensor = openvino.Tensor(array, shared_memory=True)

    @classmethod
    def ortvalue_from_numpy(cls, array: AnyArray, *_: object) -> OpenvinoValue:
        """Wrap an array without a copy if it is contiguous; it must not change while in use."""
        return cls(np.ascontiguousarray(array).reshape(array.shape))

    @classmethod
    def ortvalue_from_shape_and_type(
        cls, shape: Sequence[int], dtype: npt.DTypeLike, *_: object
    ) -> OpenvinoValue:
        """Return an uninitialized tensor."""
        return cls(np.empty(tuple(shape), dtype))

    def numpy(self) -> AnyArray:
        """Return the content without a copy."""
        return self._array

    def update_inplace(self, array: AnyArray) -> None:
        """Set the content."""
        np.copyto(self._array, array)

    def is_tensor(self) -> bool:
        """Return True: every value here is a tensor."""
        return True

    def data_type(self) -> str:
        """Return ONNX Runtime's name of the element type."""
        return _TYPES[self.tensor.get_element_type().to_string()]

    def shape(self) -> list[int]:
        """Return the sizes."""
        return list(self._array.shape)


class _RunOptions:
    """Options of a run, like `onnxruntime.RunOptions`; only returning at once has an effect."""

    def __init__(self) -> None:
        self.waits = True

    def add_run_config_entry(self, name: str, value: str) -> None:
        if name == "disable_synchronize_execution_providers":
            self.waits = value != "1"


class OpenvinoEngine:
    """Engine with the interface of the onnxruntime package.

    Raises:
        InstallationError: OpenVINO is not installed.
    """

    OrtValue = OpenvinoValue
    RunOptions = _RunOptions

    def __init__(self) -> None:
        openvino = _import_openvino()
        self.__version__: str = openvino.__version__.partition("-")[0]
        self._core = openvino.Core()

    def check(self, unit: str, *, bfloat16: bool = False) -> None:
        """Check that a processor is available, and computes in bfloat16 if that is wanted.

        Raises:
            InstallationError: OpenVINO does not find it, or it has no bfloat16.
        """
        found = list(self._core.available_devices)
        if unit not in found and f"{unit}.0" not in found:
            raise InstallationError(
                f"device is openvino:{unit}, but OpenVINO {self.__version__} finds "
                f"{', '.join(f'openvino:{name}' for name in found) or 'no device'} here; install "
                f"the driver of {unit}, or pass device='cpu'",
                argument="device",
            )
        if bfloat16 and "BF16" not in self._core.get_property(unit, "OPTIMIZATION_CAPABILITIES"):
            raise InstallationError(
                f"device is openvino:bf16, but OpenVINO {self.__version__} finds no bfloat16 on "
                "this processor (x86-64 has it as avx512_bf16 or amx_bf16); pass device='openvino' "
                "for float32",
                argument="device",
            )

    def open_session(
        self, path: Path, unit: str, *, content: bytes, threads: int = 0, bfloat16: bool = False
    ) -> _Session:
        """Compile a graph for a processor, which computes in float32 unless bfloat16 is wanted.

        Args:
            path: ONNX file, for messages.
            unit: OpenVINO's name of the processor.
            content: Content of the file.
            threads: Threads on the CPU; 0 for every core.
            bfloat16: Whether the processor may compute in bfloat16.

        Raises:
            ArtifactError: OpenVINO does not take the graph.
            InstallationError: the processor is not available.
        """
        self.check(unit, bfloat16=bfloat16)
        # Where the processor has bfloat16, OpenVINO computes in it by default.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32"}
        if threads and unit == "CPU":
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = self._core.compile_model(self._core.read_model(content), unit, settings)
        except Exception as error:  # OpenVINO's errors have no common base
            raise ArtifactError(
                f"{path} is not an ONNX file that OpenVINO {self.__version__} can run on {unit}: "
                f"{error}"
            ) from error
        return _Session(compiled, parse_onnx(content))


@dataclasses.dataclass(frozen=True)
class _Port:
    """Input or output of a graph, like ONNX Runtime's `NodeArg`."""

    name: str
    shape: list[int | None]
    type: str


class _Session:
    """A compiled graph, like `onnxruntime.InferenceSession`; all bindings share its memory."""

    def __init__(self, compiled: Any, graph: OnnxFile) -> None:
        self._inputs = [_port(port, graph.inputs) for port in compiled.inputs]
        self._outputs = [_port(port, graph.outputs) for port in compiled.outputs]
        self._metadata = dict(graph.metadata)
        self._request = compiled.create_infer_request()

    def get_inputs(self) -> list[_Port]:
        return self._inputs

    def get_outputs(self) -> list[_Port]:
        return self._outputs

    def get_modelmeta(self) -> SimpleNamespace:
        return SimpleNamespace(custom_metadata_map=self._metadata)

    def run(self, names: Sequence[str], inputs: Mapping[str, AnyArray]) -> list[AnyArray]:
        binding = self.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        self.run_with_iobinding(binding)
        return [np.array(self._request.get_tensor(name).data) for name in names]

    def io_binding(self) -> _Binding:
        return _Binding(self)

    def run_with_iobinding(self, binding: _Binding, options: _RunOptions | None = None) -> None:
        for name, value in binding.bound.items():
            self._request.set_tensor(name, value.tensor)
        self._request.start_async()
        if options is None or options.waits:
            self._request.wait()

    def wait(self) -> None:
        self._request.wait()

    def read(self, name: str) -> AnyArray:
        return np.array(self._request.get_tensor(name).data)


class _Binding:
    """Places of inputs and outputs, like ONNX Runtime's `IOBinding`."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self.bound: dict[str, OpenvinoValue] = {}

    def bind_cpu_input(self, name: str, array: AnyArray) -> None:
        self.bound[name] = OpenvinoValue.ortvalue_from_numpy(array)

    def bind_ortvalue_input(self, name: str, value: OpenvinoValue) -> None:
        self.bound[name] = value

    def bind_ortvalue_output(self, name: str, value: OpenvinoValue) -> None:
        self.bound[name] = value

    def bind_output(self, name: str) -> None:
        """Leave an output in OpenVINO's own memory."""

    def synchronize_outputs(self) -> None:
        self._session.wait()

    def copy_outputs_to_cpu(self) -> list[AnyArray]:
        return [self._session.read(port.name) for port in self._session.get_outputs()]


def _port(port: Any, names: Collection[str]) -> _Port:
    """Describe a port, under that of its names that is an input or output of the ONNX graph."""
    name = next(name for name in port.get_names() if name in names)
    sizes = [size.get_length() if size.is_static else None for size in port.get_partial_shape()]
    return _Port(name, sizes, _TYPES.get(port.get_element_type().to_string(), "other"))


def _import_openvino() -> Any:
    # Importing OpenVINO sends telemetry through this package, and works without it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # as Python has it
    try:
        import openvino
    except ImportError as error:
        raise InstallationError(
            f"OpenVINO is not installed; {how_to_install('openvino')}"
        ) from error
    return openvino
