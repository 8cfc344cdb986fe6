"""Notes on the engine of a training: another one may be faster. Nothing is chosen for the user."""

from __future__ import annotations

from importlib import metadata

from exportloss.runtime.artifact.kinds import Kind
from exportloss.runtime.sessions.devices import Device

__all__ = ["engine_notes", "openvino_version"]


def openvino_version() -> str | None:
    """Return the version of the installed OpenVINO, which is not imported; None without it."""
    try:
        return metadata.version("openvino")
    except metadata.PackageNotFoundError:
        return None


def engine_notes(kind: Kind, target: str, device: Device, *, openvino: str | None) -> list[str]:
    """Return what to say about the engine before a training.

    Args:
        kind: Kind of the artifacts.
        target: What they were exported for: `any`, `cpu`, `gpu`, ...
        device: Device to train on.
        openvino: Version of the installed OpenVINO; None without it.
    """
    if kind != "train-step":  # training artifacts run in ONNX Runtime's training build
        return []
    wanted = device.kind if device.kind in ("cpu", "openvino") else "gpu"
    notes = []
    if target not in ("any", wanted):
        notes.append(
            f"the artifacts were exported for {target}; on {device} they train with the same "
            f"numbers, but those exported for {wanted}, or for any engine, may be faster"
        )
    if device.kind == "cpu" and openvino is not None:
        notes.append(
            f"OpenVINO {openvino} is installed as well: --device openvino trains images of 320 "
            "pixels in 0.85 of the time, with 1.7 times the memory; docs/engines.md has figures"
        )
    return notes
