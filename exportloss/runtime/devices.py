"""Where a graph runs: a device's name, its session, and that all of the graph is really there."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from exportloss.errors import ArtifactError, ConfigError, ExportLossError, InstallationError
from exportloss.runtime.index import cache_folder
from exportloss.runtime.installation import how_to_install, import_onnxruntime
from exportloss.runtime.onnx_file import read_onnx
from exportloss.runtime.openvino_engine import OpenvinoEngine
from exportloss.runtime.providers import PROVIDERS, Provider, find_provider

__all__ = [
    "CPU",
    "UNCAPTURED",
    "Device",
    "captures_safely",
    "check_device",
    "describe_engine",
    "graph_options",
    "import_engine",
    "node_counts",
    "open_session",
    "wants_capture",
]

_SHORT_NAMES = {provider.name: kind for kind, provider in PROVIDERS.items()}
_WARNING = 3  # ONNX Runtime's severity above which it speaks

# A release that keeps what a captured Split, Concat or batched MatMul reads from the host
# (onnxruntime pull request 32121); without that a replay may silently read something else.
_SAFE_CAPTURE = (1, 31, 1)

UNCAPTURED = -1  # the number of no CUDA graph


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """A processor, and what drives it: a provider of ONNX Runtime, or OpenVINO.

    Attributes:
        kind: how it is driven: `openvino`, a short name of `PROVIDERS`, or what ONNX Runtime calls
            any other provider. `tensorrt` leaves to CUDA what TensorRT does not take.
        index: number of the GPU; 0 where there are not several.
        unit: OpenVINO's name of the processor: CPU, GPU, GPU.1, NPU; else "".
    """

    kind: str
    index: int = 0
    unit: str = ""

    @classmethod
    def parse(cls, name: str) -> Device:
        """Read a device's name.

        `cpu`, `cuda`, `tensorrt`, `nv-tensorrt-rtx`, `webgpu`, `coreml`, `qnn`, `directml`; one of
        several as `cuda:1`, and YOLOv5's `0` for `cuda:0`; `openvino` (its CPU), `openvino:GPU`,
        `openvino:GPU.1`, `openvino:NPU`; or any provider of ONNX Runtime by its own name, such as
        `XnnpackExecutionProvider`.

        Raises:
            ConfigError: it is none of these.
        """
        if re.fullmatch(r"\d{1,3}", name, re.ASCII):
            return cls(kind="cuda", index=int(name))
        kind, colon, which = name.partition(":")
        kind = _SHORT_NAMES.get(kind, kind)
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
            "several as cuda:1, tensorrt:1, openvino:GPU or 1, or the name of another provider of "
            "ONNX Runtime, such as XnnpackExecutionProvider"
        )

    def __str__(self) -> str:
        if self.unit:
            return f"{self.kind}:{self.unit}"
        return f"{self.kind}:{self.index}" if self.provider.indexed else self.kind

    @property
    def provider(self) -> Provider:
        """What drives it in ONNX Runtime."""
        return find_provider(self.kind)

    @property
    def memory(self) -> tuple[str, int]:
        """What ONNX Runtime calls its memory, and the number of the device."""
        memory = self.provider.memory
        return (memory, 0 if memory == "cpu" else self.index)

    @property
    def in_place(self) -> bool:
        """Whether inputs and outputs are read and written where they lie.

        To a provider without memory of ours inputs are copied when they are bound, and outputs at
        the end of a run.
        """
        return self.kind in ("cpu", "openvino") or self.provider.memory != "cpu"

    @property
    def providers(self) -> tuple[str, ...]:
        """ONNX Runtime's names of what may run a node."""
        return (self.provider.name, *self.provider.beside)

    def empty(self, ort: Any, shape: Sequence[int], dtype: npt.DTypeLike) -> Any:
        """Return an `OrtValue` of the device's memory, not set to anything."""
        return ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype, *self.memory)


CPU = Device(kind="cpu")


def import_engine(device: Device) -> Any:
    """Return what drives a device: the onnxruntime package, or OpenVINO in its place.

    Raises:
        InstallationError: it is not installed.
    """
    return OpenvinoEngine() if device.kind == "openvino" else import_onnxruntime()


def describe_engine(engine: Any, device: Device) -> str:
    """Return the names and versions of what drives a device."""
    if device.kind == "openvino":
        return f"OpenVINO {engine.__version__}"
    runtime = f"onnxruntime {engine.__version__}"
    plugin = device.provider.version()
    return f"{device.provider.name} of {f'{plugin} in {runtime}' if plugin else runtime}"


def captures_safely(ort: Any) -> bool:
    """Whether a CUDA graph of this onnxruntime replays what it captured."""
    numbers = re.findall(r"\d+", ort.__version__)[:3]
    return tuple(map(int, numbers)) >= _SAFE_CAPTURE


def wants_capture(ort: Any, device: Device, wanted: bool | None) -> bool:
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


def graph_options(ort: Any, graph: int | None) -> Any:
    """Return the run options under which a captured graph runs, by its number.

    `UNCAPTURED` runs every kernel by itself; None is for a session that captures nothing.
    """
    options = ort.RunOptions()
    if graph is not None:
        options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def open_session(
    ort: Any,
    path: Path,
    device: Device,
    *,
    threads: int = 0,
    capture: bool = False,
    tf32: bool = False,
    strict: bool = True,
    shared: bool = False,
    content: bytes | None = None,
) -> Any:
    """Open a graph on a device, and nowhere else, but for what the device's provider leaves over.

    Args:
        ort: the onnxruntime package, or what `import_engine` gives in its place.
        path: of the graph.
        device: where to run it.
        threads: within an operator, on the CPU; 0 is one a core.
        capture: capture the graph's kernels once and replay them: inputs and outputs must then
            keep their addresses.
        tf32: on CUDA, let products of float32 be computed with 10 of its 23 bits.
        strict: refuse a graph of which a node would run on the CPU beside CUDA or TensorRT.
            Graphs of dynamic shapes compute these there by design.
        shared: on the CPU, take working memory from an arena that all such sessions of the process
            share, and that it keeps to its end: for sessions of which one runs at a time.
        content: of the file, where it was read already: then it is not read again.

    Raises:
        InstallationError: onnxruntime was built without the device, or cannot drive it here.
        ArtifactError: the file is no graph that it takes, or a node has no kernel on the device,
            or none has.
    """
    if content is None:
        content = read_onnx(path)
    if device.kind == "openvino":
        return ort.open_session(path, device.unit, threads=threads, content=content)
    options = ort.SessionOptions()
    # What was checked is ONNX; a file may look like ONNX Runtime's own format at the same time.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.intra_op_num_threads = threads
    options.log_severity_level = _WARNING
    # On the CPU, memory patterns use 1.5x the memory and are no faster; DirectML takes none. On
    # CUDA the planned block is allocated in the second run, which a capture does not survive.
    options.enable_mem_pattern = device.kind not in ("cpu", "directml") and not capture
    if shared and device.kind == "cpu":
        _share_arena(ort)
        options.add_session_config_entry("session.use_env_allocators", "1")
    check_device(ort, device)
    strict = strict and not device.provider.leaves_nodes
    if device.kind != "cpu":
        options.use_deterministic_compute = True
        # Of many slices it would make a Split; CUDA's goes by a table copied in every run.
        options.add_session_config_entry(
            "optimization.disable_specified_optimizers", "GatherSliceToSplitFusion"
        )
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if strict:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    wanted: tuple[list[str], list[Mapping[str, str]]] | tuple[()] = ()
    if device.provider.plugin:
        found = device.provider.plugin_devices(ort)
        options.add_provider_for_devices(found[device.index : device.index + 1], {})
    else:
        providers = _providers(content, device, capture=capture, tf32=tf32)
        wanted = list(providers), list(providers.values())
    try:
        # Without a fallback: the Python package would try again on the CPU.
        session = ort.InferenceSession(content, options, *wanted, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise _refusal(ort, path, device, str(error)) from error
    if session.get_providers()[0] != device.providers[0]:
        raise InstallationError(_cannot_drive(ort, device))
    session._model_bytes = None  # kept for a fallback: a second copy of the weights
    counts = node_counts(session)
    if strict and (strays := set(counts) - set(device.providers)):
        raise ArtifactError(f"{path} would run in part on {', '.join(sorted(strays))}")
    if counts and not counts.keys() & (set(device.providers) - {CPU.provider.name}):
        raise ArtifactError(
            f"{path} would run on the CPU alone: {device.provider.title} takes none of its "
            f"{sum(counts.values())} nodes. Use --device cpu"
        )
    return session


def _refusal(ort: Any, path: Path, device: Device, said: str) -> ExportLossError:
    """Return the error for what ONNX Runtime said when it was to open a graph."""
    if "TensorRT libraries" in said:
        return InstallationError(_cannot_drive(ort, device))
    if "fallback to CPU EP has been explicitly disabled" in said:
        return ArtifactError(
            f"{path} has operators that {device.provider.title} has no kernel for; `exportloss "
            f"check {path.name} --for {device.kind}` names them. Use --device cpu"
        )
    return ArtifactError(f"{path} is no ONNX file that can be run: {said}")


@functools.cache
def _share_arena(ort: Any) -> None:
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


def check_device(ort: Any, device: Device) -> None:
    """See that a device can be driven, before ONNX Runtime quietly takes the CPU instead.

    Raises:
        InstallationError: onnxruntime was built without it, or cannot drive it here.
    """
    if device.kind == "cpu":
        return
    if device.kind == "openvino":
        ort.check(device.unit)
        return
    provider = device.provider
    if provider.plugin:
        if len(found := provider.plugin_devices(ort)) <= device.index:
            raise InstallationError(
                f"device is {device}, but {describe_engine(ort, device)} finds {len(found)} "
                "devices here; install the driver of a GPU that it can use, or use --device cpu"
            )
        return
    missing = {provider.name, *provider.beside} - set(ort.get_available_providers())
    if missing:
        how = how_to_install(provider.extra) if provider.extra else f"install {provider.install}"
        install = f"{how} in an environment of its own, or " * bool(provider.install)
        raise InstallationError(
            f"device is {device}, but the installed onnxruntime {ort.__version__} was built "
            f"without {' and '.join(sorted(missing))}; {install}use --device cpu"
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
        raise InstallationError(_cannot_drive(ort, device, said.getvalue())) from error


def _cannot_drive(ort: Any, device: Device, said: str = "") -> str:
    detail = f" ({said.strip().splitlines()[0]})" if said.strip() else ""
    refused = f"device is {device}, but onnxruntime {ort.__version__} cannot drive it{detail}."
    if device.provider.memory != "cuda":
        return f"{refused} Is its driver installed? Or use --device cpu"
    cuda = getattr(ort, "cuda_version", "") or "11.8 to 13"
    needs = f"an NVIDIA GPU number {device.index}, its driver, CUDA {cuda} and cuDNN 9"
    if device.kind == "tensorrt":
        needs += ", and TensorRT 10 (pip install tensorrt), its libraries in LD_LIBRARY_PATH"
    return (
        f"{refused} It needs {needs}; pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA and "
        "cuDNN. Or use --device cpu"
    )


def _providers(
    content: bytes, device: Device, *, capture: bool, tf32: bool
) -> dict[str, Mapping[str, str]]:
    """Return the settings of each provider that may run a node, the first first."""
    which = {"device_id": str(device.index)}
    settings: dict[str, Mapping[str, str]] = {name: {} for name in device.providers}
    if device.provider.indexed:
        settings[device.provider.name] = which
    if PROVIDERS["cuda"].name in settings:
        settings[PROVIDERS["cuda"].name] = which | {
            "use_tf32": str(int(tf32)),
            "enable_cuda_graph": str(int(capture)),
        }
    if device.kind == "tensorrt" and (cache := _engine_cache(content)) is not None:
        for what in ("engine", "timing"):
            which |= {f"trt_{what}_cache_enable": "1", f"trt_{what}_cache_path": str(cache)}
        settings[device.provider.name] = which
    return settings


def _engine_cache(content: bytes) -> Path | None:
    """A folder for the engines of this very file: by their names alone, constants may differ."""
    base = cache_folder()
    if base is None:
        return None
    folder = base / "tensorrt" / hashlib.sha256(content).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # building an engine anew is slow, not wrong
        return None
    return folder
