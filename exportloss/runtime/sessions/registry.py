"""Training artifacts opened with the session of their kind."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from exportloss.errors import ArtifactError, ConfigError
from exportloss.runtime.artifact.check import Artifact, open_artifact
from exportloss.runtime.artifact.kinds import KINDS, Kind
from exportloss.runtime.artifact.limits import check_threads
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.sessions.checks.self_check import check_training
from exportloss.runtime.sessions.checks.target_check import check_target
from exportloss.runtime.sessions.devices import CPU, Device, import_engine, wants_capture
from exportloss.runtime.sessions.evaluation_only import EvaluationOnlySession
from exportloss.runtime.sessions.ort_training import OrtTrainSession
from exportloss.runtime.sessions.portable_step import PortableTrainSession
from exportloss.runtime.sessions.session import TrainSession

__all__ = ["open_session"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Engine:
    """Device of a session and how it is used.

    Attributes:
        device: Device to train on.
        threads: Threads within an operator.
        capture: Whether to capture CUDA graphs.
        tf32: Whether CUDA may compute products with 10 of float32's 23 mantissa bits.
    """

    device: Device
    threads: int
    capture: bool = False
    tf32: bool = False


def _open_training_artifacts(folder: Path, artifact: Artifact, engine: _Engine) -> TrainSession:
    return OrtTrainSession(
        folder,
        artifact.manifest,
        device=engine.device,
        threads=engine.threads,
        files=artifact.files,
    )


def _open_portable_step(folder: Path, artifact: Artifact, engine: _Engine) -> TrainSession:
    return PortableTrainSession(folder, artifact.manifest, files=artifact.files, **vars(engine))


_SESSIONS: Mapping[Kind, Callable[[Path, Artifact, _Engine], TrainSession]] = {
    "ort-training": _open_training_artifacts,
    "train-step": _open_portable_step,
}


def open_session(
    folder: str | Path,
    *,
    device: str = "cpu",
    threads: int | None = None,
    cuda_graph: bool | None = None,
    tf32: bool = False,
    self_check: bool = True,
    evaluation_only: bool = False,
) -> TrainSession:
    """Open an artifacts folder, once all of it has been checked against its manifest.

    Args:
        folder: Folder that `exportloss export` wrote.
        device: Device's name, such as `cpu`, `cuda`, `openvino` or `webgpu`; see `Device.parse`.
        threads: Threads of the engine within an operator; None for every core.
        cuda_graph: Whether to capture the portable step's kernels and replay them, instead of
            launching thousands of them one by one. None means no: onnxruntime 1.31.1 cannot yet
            capture a whole step, see docs/cuda.md.
        tf32: Whether `cuda` computes convolutions and products of the portable step with 10 of
            float32's 23 mantissa bits: faster, but not with the numbers of PyTorch's float32
            (PyTorch does the same with `torch.backends.cudnn.allow_tf32`, its default).
        self_check: Whether to first compare a step with that of ONNX Runtime's CPU provider, on
            any other device: some engines train wrongly without an error. Half precision and
            `tf32` are not compared, since the CPU computes in float32; `openvino:bf16` is, within
            bounds that tell gross errors only.
        evaluation_only: Whether to open the portable step without the graph that trains, which
            saves memory: for servers, which evaluate and export what devices train.

    Raises:
        ArtifactError: the folder is not an artifact, is damaged, or does not train.
        ConfigError: the device is unknown, does not support an option, or is not the CPU for
            artifacts exported for the CPU.
        DeviceError: the device's step differs from the CPU's.
        InstallationError: the installed engine cannot run the artifact, or not on that device.
            Nothing ever falls back to the CPU.
    """
    where = Device.parse(device)
    if threads is not None:
        check_threads("threads", threads)
    folder = Path(folder)
    artifact = open_artifact(folder)
    manifest = artifact.manifest
    _check_precision(manifest, where)
    check_target(folder, manifest, where)
    cores = threads or os.cpu_count() or 1
    if evaluation_only:
        return _open_evaluation(folder, artifact, where, cores)
    capture = wants_capture(import_engine(where), where, bool(cuda_graph))
    engine = _Engine(device=where, threads=cores, capture=capture, tf32=tf32)
    session = _open(folder, artifact, engine)
    if self_check and where.kind != "cpu" and manifest.precision == "float32" and not tf32:
        reference = _open(folder, artifact, _Engine(device=CPU, threads=cores))
        check_training(session, reference, device=where)
    return session


def _open(folder: Path, artifact: Artifact, engine: _Engine) -> TrainSession:
    kind = KINDS[artifact.manifest.kind]
    if not kind.trains:
        formats = " or ".join(repr(one.format) for one in KINDS.values() if one.trains)
        raise ArtifactError(
            f"{folder} holds a {kind.name!r} artifact, which does not train; open it with "
            f"{kind.opener}, or export in format {formats}"
        )
    return _SESSIONS[kind.name](folder, artifact, engine)


def _open_evaluation(folder: Path, artifact: Artifact, device: Device, cores: int) -> TrainSession:
    manifest = artifact.manifest
    if manifest.kind != "train-step":
        raise ConfigError(
            f"{folder} holds a {manifest.kind!r} artifact, which cannot be opened with "
            "evaluation_only=True; only the portable step can: export in format 'step'",
            argument="evaluation_only",
        )
    return EvaluationOnlySession(
        folder, manifest, device=device, threads=cores, files=artifact.files
    )


def _check_precision(manifest: Manifest, device: Device) -> None:
    precision = manifest.precision
    if precision == "bfloat16" and device.kind == "cpu":
        raise ConfigError(
            f"device is {device}, but the artifacts compute in bfloat16, which ONNX Runtime has no "
            "CPU kernels for; pass device='cuda', or export with precision='float32'",
            argument="device",
        )
    if precision != "float32" and device.kind == "tensorrt":
        raise ConfigError(
            f"device is {device}, but the artifacts compute in {precision}, in which ONNX Runtime "
            "would let TensorRT compute the loss as well; pass device='cuda', or export with "
            "precision='float32'",
            argument="device",
        )


TrainSession.open = staticmethod(open_session)
