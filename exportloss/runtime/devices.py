"""Where a graph runs: a device's name, its session, and that all of the graph is really there."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError, InstallationError
from exportloss.runtime.index import cache_folder
from exportloss.runtime.manifest import describe_file

__all__ = [
    "CPU",
    "UNCAPTURED",
    "Device",
    "captures_safely",
    "check_device",
    "graph_options",
    "node_counts",
    "open_session",
    "wants_capture",
]

Kind = Literal["cpu", "cuda", "tensorrt"]

_PROVIDERS: dict[Kind, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_NAMES: dict[Kind, str] = {"cpu": "the CPU", "cuda": "CUDA", "tensorrt": "TensorRT"}
_WARNING = 3  # ONNX Runtime's severity above which it speaks

# A release that keeps what a captured Split, Concat or batched MatMul reads from the host
# (onnxruntime pull request 32121); without that a replay may silently read something else.
_SAFE_CAPTURE = (1, 31, 1)

UNCAPTURED = -1  # the number of no CUDA graph


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """A processor that ONNX Runtime drives.

    Attributes:
        kind: how it is driven; `tensorrt` leaves to CUDA what TensorRT does not take.
        index: number of the GPU; 0 for the CPU.
    """

    kind: Kind
    index: int = 0

    @classmethod
    def parse(cls, name: str) -> Device:
        """Read `cpu`, `cuda`, `cuda:1`, `tensorrt`, `tensorrt:1`, or YOLOv5's `0` for `cuda:0`.

        Raises:
            ConfigError: it is none of these.
        """
        match = re.fullmatch(r"(cpu)|(cuda|tensorrt)(?::(\d{1,3}))?|(\d{1,3})", name, re.ASCII)
        if match is None:
            raise ConfigError(
                f"device is {name!r}; expected cpu, cuda, tensorrt, or one of several GPUs as "
                "cuda:1, tensorrt:1 or 1"
            )
        cpu, kind, index, number = match.groups()
        if cpu:
            return cls(kind="cpu")
        index = int(index or number or 0)
        return cls(kind="tensorrt" if kind == "tensorrt" else "cuda", index=index)

    def __str__(self) -> str:
        return "cpu" if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def memory(self) -> tuple[str, int]:
        """What ONNX Runtime calls its memory, and the number of the device."""
        return ("cpu", 0) if self.kind == "cpu" else ("cuda", self.index)

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's names of what may run a node."""
        names = (_PROVIDERS[self.kind],)
        return (*names, _PROVIDERS["cuda"]) if self.kind == "tensorrt" else names

    def empty(self, ort: ModuleType, shape: Sequence[int], dtype: npt.DTypeLike) -> Any:
        """Return an `OrtValue` of the device's memory, not set to anything."""
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, *self.memory)


CPU = Device(kind="cpu")


def captures_safely(ort: ModuleType) -> bool:
    """Whether a CUDA graph of this onnxruntime replays what it captured."""
    numbers = re.findall(r"\d+", ort.__version__)[:3]
    return tuple(map(int, numbers)) >= _SAFE_CAPTURE


def wants_capture(ort: ModuleType, device: Device, wanted: bool | None) -> bool:
    """Return whether to capture CUDA graphs; None captures where that is possible and safe.

    Raises:
        ConfigError: they are wanted where they would not do, or would go wrong.
    """
    if wanted and device.kind != "cuda":
        raise ConfigError(f"cuda_graph requires device cuda, got {device}; leave it out")
    if device.kind != "cuda" or wanted is False:
        return False
    safe = captures_safely(ort)
    if wanted and not safe:
        raise ConfigError(
            "this onnxruntime may replay something else than it captured (its pull request 32121); "
            "leave cuda_graph out, or install onnxruntime-gpu 1.31.1 or later"
        )
    return safe


def graph_options(ort: ModuleType, graph: int | None) -> Any:
    """Return the run options under which a captured graph runs, by its number.

    `UNCAPTURED` runs every kernel by itself; None is for a session that captures nothing.
    """
    options = ort.RunOptions()
    if graph is not None:
        options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def open_session(
    ort: ModuleType,
    path: Path,
    device: Device,
    *,
    threads: int = 0,
    capture: bool = False,
    tf32: bool = False,
    strict: bool = True,
    shared: bool = False,
) -> Any:
    """Open a graph on a device, and nowhere else.

    Args:
        ort: the onnxruntime package.
        path: of the graph.
        device: where to run it.
        threads: within an operator, on the CPU; 0 is one a core.
        capture: capture the graph's kernels once and replay them: inputs and outputs must then
            keep their addresses.
        tf32: on CUDA, let products of float32 be computed with 10 of its 23 bits.
        strict: refuse a graph of which a node would run on the CPU beside a GPU. Graphs of
            dynamic shapes, which we do not write, compute these there by design.
        shared: on the CPU, take working memory from an arena that all such sessions of the process
            share, and that it keeps to its end: for sessions of which one runs at a time.

    Raises:
        InstallationError: onnxruntime was built without the device, or cannot drive it here.
        ArtifactError: the file is no graph that it takes, or a node has no kernel on the device.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _WARNING
    # On the CPU, memory patterns use 1.5x the memory and are no faster. On CUDA the planned block
    # is allocated in the second run, which a capture does not survive.
    options.enable_mem_pattern = device.kind != "cpu" and not capture
    if shared and device.kind == "cpu":
        _share_arena(ort)
        options.add_session_config_entry("session.use_env_allocators", "1")
    providers: list[tuple[str, Mapping[str, str]]] = [(_PROVIDERS["cpu"], {})]
    check_device(ort, device)
    if device.kind != "cpu":
        providers = _gpu_providers(path, device, capture=capture, tf32=tf32)
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if strict:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    names, settings = zip(*providers, strict=True)
    try:
        # Without a fallback: the Python package would try again on the CPU.
        session = ort.InferenceSession(
            str(path), options, list(names), list(settings), enable_fallback=0
        )
    except Exception as error:  # ONNX Runtime's errors have no common base
        if "TensorRT libraries" in str(error):
            raise InstallationError(_cannot_drive(ort, device)) from error
        if "fallback to CPU EP has been explicitly disabled" in str(error):
            raise ArtifactError(
                f"{path} has operators that {_NAMES[device.kind]} has no kernel for; `exportloss "
                f"check {path.name} --for {device.kind}` names them. Use --device cpu"
            ) from error
        raise ArtifactError(f"{path} is no ONNX file that can be run: {error}") from error
    if session.get_providers()[0] != device.providers[0]:
        raise InstallationError(_cannot_drive(ort, device))
    if strict and (strays := set(node_counts(session)) - set(device.providers)):
        raise ArtifactError(f"{path} would run in part on {', '.join(sorted(strays))}")
    return session


@functools.cache
def _share_arena(ort: ModuleType) -> None:
    """Make the arena that sessions of this process can share."""
    kinds = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    with contextlib.suppress(RuntimeError):  # the process has one already
        ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", *kinds), None)


def node_counts(session: Any) -> dict[str, int]:
    """Return how many nodes each provider runs, by the session's own account.

    Empty where it keeps none: on the CPU alone, and in onnxruntime before 1.24.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    counts: Counter[str] = Counter()
    with contextlib.suppress(Exception):  # nothing was recorded
        for part in session.get_provider_graph_assignment_info():
            counts[part.ep_name] += len(part.get_nodes())
    return dict(counts)


def check_device(ort: ModuleType, device: Device) -> None:
    """See that a device can be driven, before ONNX Runtime quietly takes the CPU instead.

    Raises:
        InstallationError: onnxruntime was built without it, or cannot drive it here.
    """
    if device.kind == "cpu":
        return
    if missing := set(device.providers) - set(ort.get_available_providers()):
        raise InstallationError(
            f"device is {device}, but the installed onnxruntime {ort.__version__} was built "
            f"without {' and '.join(sorted(missing))}; install exportloss[gpu] (onnxruntime-gpu) "
            "in an environment of its own, or use --device cpu"
        )
    said = io.StringIO()
    if hasattr(ort, "preload_dlls"):  # finds the libraries that pip installed
        with contextlib.redirect_stdout(said):
            ort.preload_dlls()
    try:
        device.empty(ort, (1,), np.float32)
    except Exception as error:
        raise InstallationError(_cannot_drive(ort, device, said.getvalue())) from error


def _cannot_drive(ort: ModuleType, device: Device, said: str = "") -> str:
    cuda = getattr(ort, "cuda_version", "") or "11.8 to 13"
    needs = f"an NVIDIA GPU number {device.index}, its driver, CUDA {cuda} and cuDNN 9"
    if device.kind == "tensorrt":
        needs += ", and TensorRT 10 (pip install tensorrt), its libraries in LD_LIBRARY_PATH"
    detail = f" ({said.strip().splitlines()[0]})" if said.strip() else ""
    return (
        f"device is {device}, but onnxruntime {ort.__version__} cannot drive it{detail}. It needs "
        f"{needs}; pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA and cuDNN. Or use "
        "--device cpu"
    )


def _gpu_providers(
    path: Path, device: Device, *, capture: bool, tf32: bool
) -> list[tuple[str, Mapping[str, str]]]:
    cuda = {
        "device_id": str(device.index),
        "use_tf32": str(int(tf32)),
        "enable_cuda_graph": str(int(capture)),
    }
    providers: list[tuple[str, Mapping[str, str]]] = [(_PROVIDERS["cuda"], cuda)]
    if device.kind == "tensorrt":
        tensorrt = {"device_id": str(device.index)}
        if (cache := _engine_cache(path)) is not None:
            for what in ("engine", "timing"):
                tensorrt[f"trt_{what}_cache_enable"] = "1"
                tensorrt[f"trt_{what}_cache_path"] = str(cache)
        providers.insert(0, (_PROVIDERS["tensorrt"], tensorrt))
    return providers


def _engine_cache(path: Path) -> Path | None:
    """A folder for the engines of this very file: by their names alone, constants may differ."""
    base = cache_folder()
    if base is None:
        return None
    folder = base / "tensorrt" / describe_file(path).sha256[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # building an engine anew is slow, not wrong
        return None
    return folder
