"""A graph opened on a device, with a check that all of it runs there."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exportloss.errors import ArtifactError, ExportLossError, InstallationError
from exportloss.runtime.artifact.onnx_files.onnx_file import read_onnx
from exportloss.runtime.sessions.devices import CPU, Device, cannot_drive, check_device
from exportloss.runtime.sessions.providers import PROVIDERS
from exportloss.runtime.storage.cache import cache_folder

__all__ = ["UNCAPTURED", "graph_options", "node_counts", "open_graph"]

_WARNING = 3  # ONNX Runtime's severity above which it speaks

UNCAPTURED = -1  # run option: neither capture nor replay


def graph_options(ort: Any, graph: int | None) -> Any:
    """Return the run options for a captured CUDA graph.

    Args:
        ort: The onnxruntime package, or the engine in its place.
        graph: Number of the CUDA graph; `UNCAPTURED` to launch every kernel by itself; None for a
            session that captures nothing.
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
    """Open a graph on a device.

    Only providers that leave nodes to the CPU (`Provider.leaves_nodes`) run a part of it there.

    Args:
        ort: The onnxruntime package, or the engine that `import_engine` returns in its place.
        path: ONNX file.
        device: Device to run on.
        threads: Threads within an operator, on the CPU; 0 for one per core.
        capture: Whether to capture the graph's kernels once and replay them. Inputs and outputs
            must then keep their addresses.
        tf32: Whether CUDA may compute float32 products with 10 of 23 mantissa bits.
        strict: Whether to refuse a graph with a node that would run on the CPU beside CUDA or
            TensorRT. Graphs with dynamic shapes compute these shapes there by design.
        shared: Whether to take working memory, on the CPU, from an arena that all such sessions of
            the process share and that is kept until the process ends; for sessions that run one
            at a time.
        content: Content of the file, if it was read already.

    Raises:
        InstallationError: onnxruntime was built without the device, or cannot drive it here.
        ArtifactError: the file is not a graph that the engine takes, or a node, or every node, has
            no kernel on the device.
    """
    if content is None:
        content = read_onnx(path)
    if device.kind == "openvino":
        return ort.open_session(
            path, device.unit, threads=threads, content=content, bfloat16=device.bfloat16
        )
    options = ort.SessionOptions()
    # The file was checked as ONNX, but could be read as ONNX Runtime's own format as well.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.intra_op_num_threads = threads
    options.log_severity_level = _WARNING
    # On the CPU, memory patterns use 1.5x the memory and are no faster; DirectML takes none. On
    # CUDA the planned block is allocated in the second run, which a capture does not survive.
    options.enable_mem_pattern = device.kind not in ("cpu", "directml") and not capture
    # It would turn many slices into a Split, which needs all of them in memory at once, and for
    # which CUDA copies a table in every run.
    options.add_session_config_entry(
        "optimization.disable_specified_optimizers", "GatherSliceToSplitFusion"
    )
    # Reuse is planned ahead too: it would hold memory from one pass for the other.
    options.enable_mem_reuse = device.kind != "cpu"
    if shared and device.kind == "cpu":
        _share_arena(ort)
        options.add_session_config_entry("session.use_env_allocators", "1")
    check_device(ort, device)
    strict = strict and not device.provider.leaves_nodes
    if device.kind != "cpu":
        options.use_deterministic_compute = True
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
        # With its fallback, the Python package would try again on the CPU.
        session = ort.InferenceSession(content, options, *wanted, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise _refusal(ort, path, device, str(error)) from error
    if session.get_providers()[0] != device.providers[0]:
        raise InstallationError(cannot_drive(ort, device), argument="device")
    session._model_bytes = None  # a second copy of the weights, kept for the fallback
    counts = node_counts(session)
    if strict and (strays := set(counts) - set(device.providers)):
        raise ArtifactError(f"{path} would run in part on {', '.join(sorted(strays))}")
    if counts and not counts.keys() & (set(device.providers) - {CPU.provider.name}):
        raise ArtifactError(
            f"{path} would run on the CPU alone: {device.provider.title} takes none of its "
            f"{sum(counts.values())} nodes; pass device='cpu'",
            argument="device",
        )
    return session


def _refusal(ort: Any, path: Path, device: Device, said: str) -> ExportLossError:
    """Return the error for the message with which ONNX Runtime refused a graph."""
    if "TensorRT libraries" in said:
        return InstallationError(cannot_drive(ort, device), argument="device")
    if "fallback to CPU EP has been explicitly disabled" in said:
        return ArtifactError(
            f"{path} has operators for which {device.provider.title} has no kernel; "
            f"exportloss.export.check({path.name!r}, provider={device.kind!r}) names them. Pass "
            "device='cpu'",
            argument="device",
        )
    return ArtifactError(f"{path} is not an ONNX file that can be run: {said}")


@functools.cache
def _share_arena(ort: Any) -> None:
    """Create the arena that sessions of this process can share."""
    kinds = ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    with contextlib.suppress(RuntimeError):  # the process has one already
        ort.create_and_register_allocator(ort.OrtMemoryInfo("Cpu", *kinds), None)


def node_counts(session: Any) -> dict[str, int]:
    """Return the number of nodes per provider, as the session reports it.

    Empty on the CPU alone and in onnxruntime before 1.24, which report nothing.
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
    """Return the settings of each provider that may run a node, in order of preference."""
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
    """Return a folder for the engines of this very file; None for nowhere.

    TensorRT's own names do not depend on the constants of a graph.
    """
    base = cache_folder()
    if base is None:
        return None
    folder = base / "tensorrt" / hashlib.sha256(content).hexdigest()[:32]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # without a cache, building engines is slow, not wrong
        return None
    return folder
