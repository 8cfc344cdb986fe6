"""A graph opened on a device, and that all of it really runs there."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exportloss.errors import ArtifactError, ExportLossError, InstallationError
from exportloss.runtime.artifact.onnx_file import read_onnx
from exportloss.runtime.sessions.devices import CPU, Device, cannot_drive, check_device
from exportloss.runtime.sessions.providers import PROVIDERS
from exportloss.runtime.storage.cache import cache_folder

__all__ = ["UNCAPTURED", "graph_options", "node_counts", "open_graph"]

_WARNING = 3  # ONNX Runtime's severity above which it speaks

UNCAPTURED = -1  # the number of no CUDA graph


def graph_options(ort: Any, graph: int | None) -> Any:
    """Return the run options under which a captured graph runs, by its number.

    `UNCAPTURED` runs every kernel by itself; None is for a session that captures nothing.
    """
    options = ort.RunOptions()
    if graph is not None:
        options.add_run_config_entry("gpu_graph_id", str(graph))
    return options


def open_graph(
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
        raise InstallationError(cannot_drive(ort, device))
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
        return InstallationError(cannot_drive(ort, device))
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
