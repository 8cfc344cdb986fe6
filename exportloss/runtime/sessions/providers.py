"""ONNX Runtime's execution providers: their names and the packages that install them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Mapping
from importlib import import_module, metadata
from types import ModuleType
from typing import Any

from exportloss.errors import InstallationError

__all__ = ["PROVIDERS", "Provider", "find_provider"]

_SUFFIX = "ExecutionProvider"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provider:
    """Execution provider of ONNX Runtime.

    Attributes:
        name: ONNX Runtime's name for the provider.
        title: Name in messages.
        install: Package that brings the provider; "" if unknown.
        extra: Extra of exportloss that installs the package; "" for none.
        plugin: Import package of the plug-in library; "" for a built-in provider.
        indexed: Whether a machine may have several of the provider's devices.
        memory: ONNX Runtime's name of the memory that holds the provider's tensors.
        beside: Providers that may run the nodes that this one does not take. The CPU's is among
            them if the provider never runs whole graphs.
    """

    name: str
    title: str
    install: str = ""
    extra: str = ""
    plugin: str = ""
    indexed: bool = False
    memory: str = "cpu"
    beside: tuple[str, ...] = (f"CPU{_SUFFIX}",)

    @property
    def leaves_nodes(self) -> bool:
        """Whether nodes may run on the CPU beside the provider."""
        return f"CPU{_SUFFIX}" in self.beside

    def version(self) -> str:
        """Return name and version of the plug-in; "" if built in or not installed."""
        if not self.plugin:
            return ""
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"{self.install} {metadata.version(self.install)}"
        return ""

    def plugin_devices(self, ort: ModuleType) -> list[Any]:
        """Register the plug-in's library with ONNX Runtime, and return the devices it finds.

        Raises:
            InstallationError: the plug-in is not installed, or this onnxruntime takes no plug-ins.
        """
        try:
            plugin = import_module(self.plugin)
        except ImportError as error:
            raise InstallationError(
                f"{self.title} needs ONNX Runtime's plug-in for it; pip install {self.install}"
            ) from error
        if not hasattr(ort, "register_execution_provider_library"):
            raise InstallationError(
                f"onnxruntime {ort.__version__} takes no plug-ins, which {self.title} needs; "
                "install onnxruntime 1.24 or later"
            )
        _register(ort, self.plugin, plugin.get_library_path())
        return [device for device in ort.get_ep_devices() if device.ep_name == self.name]


@functools.cache  # registering WebGPU's a second time ends the process
def _register(ort: ModuleType, name: str, library: str) -> None:
    ort.register_execution_provider_library(name, library)


PROVIDERS: Mapping[str, Provider] = {
    "cpu": Provider(name=f"CPU{_SUFFIX}", title="the CPU", beside=()),
    "cuda": Provider(
        name=f"CUDA{_SUFFIX}",
        title="CUDA",
        install="onnxruntime-gpu",
        extra="gpu",
        indexed=True,
        memory="cuda",
        beside=(),
    ),
    "tensorrt": Provider(
        name=f"Tensorrt{_SUFFIX}",
        title="TensorRT",
        install="onnxruntime-gpu",
        extra="gpu",
        indexed=True,
        memory="cuda",
        beside=(f"CUDA{_SUFFIX}",),
    ),
    "nv-tensorrt-rtx": Provider(
        name=f"NvTensorRTRTX{_SUFFIX}",
        title="TensorRT for RTX",
        install="onnxruntime-ep-nv-tensorrt-rtx-cu13",
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
        indexed=True,
    ),
    "webgpu": Provider(
        name=f"WebGpu{_SUFFIX}",
        title="WebGPU",
        install="onnxruntime-ep-webgpu",
        plugin="onnxruntime_ep_webgpu",
        indexed=True,
    ),
    "coreml": Provider(name=f"CoreML{_SUFFIX}", title="Core ML", install="onnxruntime on macOS"),
    "qnn": Provider(name=f"QNN{_SUFFIX}", title="QNN", install="onnxruntime-qnn"),
    "directml": Provider(
        name=f"Dml{_SUFFIX}", title="DirectML", install="onnxruntime-directml", indexed=True
    ),
}


def find_provider(kind: str) -> Provider:
    """Return the provider of a short name, or else the one of that name in ONNX Runtime."""
    return PROVIDERS.get(kind) or Provider(name=kind, title=kind)
