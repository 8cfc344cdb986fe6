"""Devices: their names, the engines that drive them, and checks that this is possible here."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import ConfigError, InstallationError
from exportloss.runtime.sessions.installation import how_to_install, import_onnxruntime
from exportloss.runtime.sessions.openvino_engine import OpenvinoEngine
from exportloss.runtime.sessions.providers import PROVIDERS, Provider, find_provider

__all__ = [
    "CPU",
    "Device",
    "cannot_drive",
    "captures_safely",
    "check_device",
    "describe_engine",
    "import_engine",
    "wants_capture",
]

_SHORT_NAMES = {provider.name: kind for kind, provider in PROVIDERS.items()}

# A release that keeps what a captured Split, Concat or batched MatMul reads from the host
# (onnxruntime pull request 32121); without that a replay may silently read something else.
_SAFE_CAPTURE = (1, 31, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """A processor driven by a provider of ONNX Runtime, or by OpenVINO.

    Attributes:
        kind: Driver of the processor: `openvino`, a short name of `PROVIDERS`, or ONNX Runtime's
            name of another provider. `tensorrt` leaves nodes that TensorRT does not take to CUDA.
        index: Number of the GPU, from 0; 0 for providers with a single device.
        unit: OpenVINO's name of the processor: CPU, GPU, GPU.1, NPU; "" for other drivers.
        bfloat16: Whether OpenVINO's CPU may compute in bfloat16, 8 instead of 24 bits: faster, but
            with other numbers than float32's. Never by default.
    """

    kind: str
    index: int = 0
    unit: str = ""
    bfloat16: bool = False

    @classmethod
    def parse(cls, name: str) -> Device:
        """Return the device of a name.

        Args:
            name: `cpu`, `cuda`, `tensorrt`, `nv-tensorrt-rtx`, `webgpu`, `coreml`, `qnn` or
                `directml`; one of several as `cuda:1`, and YOLOv5's `0` for `cuda:0`; `openvino`
                (its CPU, in float32), `openvino:bf16` (its CPU, in bfloat16), `openvino:GPU`,
                `openvino:GPU.1`, `openvino:NPU`; or any other provider of ONNX Runtime by its own
                name, such as `XnnpackExecutionProvider`.

        Raises:
            ConfigError: the name is none of these.
        """
        if re.fullmatch(r"\d{1,3}", name, re.ASCII):
            return cls(kind="cuda", index=int(name))
        kind, colon, which = name.partition(":")
        kind = _SHORT_NAMES.get(kind, kind)
        if name == "openvino:bf16":
            return cls(kind=kind, unit="CPU", bfloat16=True)
        if kind == "openvino" and (not colon or re.fullmatch(r"CPU|NPU|GPU(\.\d{1,2})?", which)):
            return cls(kind=kind, unit=which or "CPU")
        known = PROVIDERS.get(kind)
        if known and known.indexed and re.fullmatch(r"\d{1,3}", which or "0", re.ASCII):
            if bool(colon) == bool(which):
                return cls(kind=kind, index=int(which or 0))
        elif not colon and (known or re.fullmatch(r"[A-Za-z0-9]+ExecutionProvider", kind)):
            return cls(kind=kind)
        raise ConfigError(
            f"device is {name!r}; expected one of {', '.join((*PROVIDERS, 'openvino'))}, one of "
            "several as cuda:1, tensorrt:1, openvino:GPU or 1, openvino:bf16, or the name of "
            "another provider of ONNX Runtime, such as XnnpackExecutionProvider",
            argument="device",
        )

    def __str__(self) -> str:
        if self.bfloat16:
            return f"{self.kind}:bf16"
        if self.unit:
            return f"{self.kind}:{self.unit}"
        return f"{self.kind}:{self.index}" if self.provider.indexed else self.kind

    @property
    def provider(self) -> Provider:
        """ONNX Runtime's provider for the device."""
        return find_provider(self.kind)

    @property
    def memory(self) -> tuple[str, int]:
        """ONNX Runtime's name of the device's memory, and the number of the device."""
        memory = self.provider.memory
        return (memory, 0 if memory == "cpu" else self.index)

    @property
    def in_place(self) -> bool:
        """Whether inputs and outputs are read and written in place.

        Other providers copy inputs when they are bound, and outputs at the end of a run.
        """
        return self.kind in ("cpu", "openvino") or self.provider.memory != "cpu"

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's names of the providers that may run a node."""
        return (self.provider.name, *self.provider.beside)

    def empty(self, ort: Any, shape: Sequence[int], dtype: npt.DTypeLike) -> Any:
        """Return an uninitialized `OrtValue` in the device's memory."""
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, *self.memory)


CPU = Device(kind="cpu")


def import_engine(device: Device) -> Any:
    """Return the engine that drives a device: the onnxruntime package, or OpenVINO in its place.

    Raises:
        InstallationError: the engine is not installed.
    """
    return OpenvinoEngine() if device.kind == "openvino" else import_onnxruntime()


def describe_engine(engine: Any, device: Device) -> str:
    """Return names and versions of the engine and provider that drive a device."""
    if device.kind == "openvino":
        return f"OpenVINO {engine.__version__}{' in bfloat16' * device.bfloat16}"
    runtime = f"onnxruntime {engine.__version__}"
    plugin = device.provider.version()
    return f"{device.provider.name} of {f'{plugin} in {runtime}' if plugin else runtime}"


def captures_safely(ort: Any) -> bool:
    """Return whether a CUDA graph of this onnxruntime replays what it captured."""
    numbers = re.findall(r"\d+", ort.__version__)[:3]
    return tuple(map(int, numbers)) >= _SAFE_CAPTURE


def wants_capture(ort: Any, device: Device, wanted: bool | None) -> bool:
    """Return whether to capture CUDA graphs.

    Args:
        ort: The onnxruntime package, or the engine in its place.
        device: Device to run on.
        wanted: The user's choice; None to capture where that is possible and safe.

    Raises:
        ConfigError: the choice is to capture where that is impossible or unsafe.
    """
    if wanted and device.kind != "cuda":
        raise ConfigError(f"cuda_graph requires device='cuda', got {str(device)!r}")
    if device.kind != "cuda" or wanted is False:
        return False
    safe = captures_safely(ort)
    if wanted and not safe:
        raise ConfigError(
            f"cuda_graph needs onnxruntime-gpu 1.31.1 or later; {ort.__version__} may replay "
            "something else than it captured (onnxruntime pull request 32121)"
        )
    return safe


def check_device(ort: Any, device: Device) -> None:
    """Check that a device can be driven; ONNX Runtime itself would fall back to the CPU.

    Raises:
        InstallationError: onnxruntime was built without the device, or cannot drive it here.
    """
    if device.kind == "cpu":
        return
    if device.kind == "openvino":
        ort.check(device.unit, bfloat16=device.bfloat16)
        return
    provider = device.provider
    if provider.plugin:
        if len(found := provider.plugin_devices(ort)) <= device.index:
            raise InstallationError(
                f"device is {device}, but {describe_engine(ort, device)} finds {len(found)} "
                "devices here; install the driver of a GPU that it supports, or pass device='cpu'",
                argument="device",
            )
        return
    missing = {provider.name, *provider.beside} - set(ort.get_available_providers())
    if missing:
        how = how_to_install(provider.extra) if provider.extra else f"install {provider.install}"
        install = f"{how} in an environment of its own, or " * bool(provider.install)
        raise InstallationError(
            f"device is {device}, but the installed onnxruntime {ort.__version__} was built "
            f"without {' and '.join(sorted(missing))}; {install}pass device='cpu'",
            argument="device",
        )
    if provider.memory == "cpu":
        return
    said = io.StringIO()
    if hasattr(ort, "preload_dlls"):  # finds the libraries that pip installed
        with contextlib.redirect_stdout(said):
            ort.preload_dlls()
    try:
        device.empty(ort, (1,), np.float32)
    except Exception as error:
        raise InstallationError(
            cannot_drive(ort, device, said.getvalue()), argument="device"
        ) from error


def cannot_drive(ort: Any, device: Device, said: str = "") -> str:
    """Return the message for a device that this onnxruntime supports but cannot drive here.

    Args:
        ort: The onnxruntime package.
        device: Device to run on.
        said: Text that onnxruntime printed.
    """
    detail = f" ({said.strip().splitlines()[0]})" if said.strip() else ""
    refused = f"device is {device}, but onnxruntime {ort.__version__} cannot drive it{detail}."
    if device.provider.memory != "cuda":
        return f"{refused} Check that its driver is installed, or pass device='cpu'"
    cuda = getattr(ort, "cuda_version", "") or "11.8 to 13"
    needs = f"an NVIDIA GPU number {device.index}, its driver, CUDA {cuda} and cuDNN 9"
    if device.kind == "tensorrt":
        needs += ", and TensorRT 10 (pip install tensorrt), its libraries in LD_LIBRARY_PATH"
    return (
        f"{refused} It needs {needs}; pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA and "
        "cuDNN. Or pass device='cpu'"
    )
