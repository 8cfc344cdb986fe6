"""ONNX Runtime's module and checkpoint of training artifacts, opened on a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from exportloss.errors import ArtifactError, ConfigError, InstallationError
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.sessions.devices import Device
from exportloss.runtime.sessions.installation import how_to_install

__all__ = ["load_checkpoint", "open_module"]


def load_checkpoint(bindings: Any, own: Path, folder: Path, manifest: Manifest) -> Any:
    """Load the copy of a checkpoint.

    Its hash has been compared with the manifest's, since ONNX Runtime loads damaged files.

    Args:
        bindings: ONNX Runtime's C classes.
        own: Folder of the copy.
        folder: Artifacts folder, for messages.
        manifest: Manifest of the folder.

    Raises:
        ArtifactError: the checkpoint cannot be read, or lacks a trained tensor.
    """
    path = folder / "checkpoint"
    try:
        state = bindings.load_checkpoint(str(own / path.name))
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ArtifactError(f"{path} cannot be read: {error}; export again") from error
    if missing := sorted(set(manifest.trained) - set(state.parameter_names())):
        raise ArtifactError(f"{path} lacks {missing[0]!r}, which the manifest says is trained")
    return state


def open_module(
    bindings: Any, own: Path, state: Any, *, device: Device, options: Any, folder: Path
) -> Any:
    """Return ONNX Runtime's `Module`, which computes loss and gradients.

    Args:
        bindings: ONNX Runtime's C classes.
        own: Folder of the copies of the graphs.
        state: Loaded checkpoint.
        device: Device to train on.
        options: Session options of onnxruntime.
        folder: Artifacts folder, for messages.

    Raises:
        ArtifactError: the graphs cannot be opened.
        ConfigError: ONNX Runtime does not train on the device.
        InstallationError: the installed build cannot drive the device.
    """
    if device.kind == "tensorrt":
        raise ConfigError(
            f"device is {device}, but training artifacts train on cpu and cuda; for TensorRT "
            "export in format 'step'",
            argument="format",
        )
    kind = getattr(bindings.OrtDevice, device.memory[0])()
    place = bindings.OrtDevice(kind, bindings.OrtDevice.default_memory(), device.index)
    graphs = [str(own / f"{name}_model.onnx") for name in ("training", "eval")]
    try:
        return bindings.Module(graphs[0], state, graphs[1], place, options)
    except Exception as error:  # ONNX Runtime's errors have no common base
        if device.kind == "cpu":
            raise ArtifactError(f"{folder} cannot be opened: {error}; export again") from error
        raise InstallationError(
            f"device is {device}, but the installed training build cannot drive it "
            f"({str(error).strip().splitlines()[-1]}). It needs onnxruntime-training 1.19.2 "
            f"({how_to_install('training-cuda')}), CUDA 11.8 and cuDNN 8. Or export in format "
            "'step', which runs on any onnxruntime-gpu",
            argument="format",
        ) from error
