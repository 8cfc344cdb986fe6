"""Opening artifacts that train: which session is for which kind."""

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
from exportloss.runtime.sessions.devices import CPU, Device, import_engine, wants_capture
from exportloss.runtime.sessions.ort_training import OrtTrainSession
from exportloss.runtime.sessions.portable_step import PortableTrainSession
from exportloss.runtime.sessions.self_check import check_training
from exportloss.runtime.sessions.session import TrainSession

__all__ = ["open_session"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Engine:
    """What a session runs on.

    Attributes:
        device: Where to train.
        threads: Threads within an operator.
        capture: Whether to capture CUDA graphs.
        tf32: Whether CUDA may compute products with 10 of float32's 23 bits.
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
) -> TrainSession:
    """Open an artifacts folder, once all of it has been checked against its manifest.

    Args:
        folder: written by `exportloss export`.
        device: `cpu`, `cuda`, `openvino`, `webgpu` and so on, as `Device.parse` reads them.
        threads: of the engine within an operator; None takes every core.
        cuda_graph: capture the portable step's kernels and replay them, which saves launching
            thousands of them one by one. None does not: onnxruntime 1.31.1 could not yet
            capture a whole step, see docs/cuda.md.
        tf32: on `cuda`, compute convolutions and products of the portable step with 10 of
            float32's 23 bits: faster, and no longer PyTorch's numbers (it does the same with
            `torch.backends.cudnn.allow_tf32`, its default).
        self_check: on anything but the CPU first compare a step with that of ONNX Runtime's CPU
            provider; engines were found that train wrongly and say nothing. Half precision and
            `tf32` are not compared: the CPU computes in float32.

    Raises:
        ArtifactError: the folder is no artifact, is damaged, or does not train.
        ConfigError: the device is unknown, or cannot do what is asked for.
        DeviceError: the device computes another step than the CPU.
        InstallationError: the installed engine cannot run it, or not on that device: nothing
            ever runs on the CPU instead.
    """
    where = Device.parse(device)
    if threads is not None:
        check_threads("threads", threads)
    folder = Path(folder)
    artifact = open_artifact(folder)
    manifest = artifact.manifest
    _check_precision(manifest, where)
    cores = threads or os.cpu_count() or 1
    capture = wants_capture(import_engine(where), where, bool(cuda_graph))
    engine = _Engine(device=where, threads=cores, capture=capture, tf32=tf32)
    session = _open(folder, artifact, engine)
    if self_check and where.kind != "cpu" and manifest.precision == "float32" and not tf32:
        reference = _open(folder, artifact, _Engine(device=CPU, threads=cores))
        check_training(session, reference, device=str(where))
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


def _check_precision(manifest: Manifest, device: Device) -> None:
    precision = manifest.precision
    if precision == "bfloat16" and device.kind == "cpu":
        raise ConfigError(
            "the artifacts compute in bfloat16, which ONNX Runtime has no CPU kernels for; use "
            "--device cuda, or export with --precision float32"
        )
    if precision != "float32" and device.kind == "tensorrt":
        raise ConfigError(
            f"the artifacts compute in {precision}; ONNX Runtime would let TensorRT compute their "
            "loss in it as well: use --device cuda, or export with --precision float32"
        )


TrainSession.open = staticmethod(open_session)
