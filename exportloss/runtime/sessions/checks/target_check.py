"""The device against the engine that an artifact was exported for."""

from __future__ import annotations

from pathlib import Path

from exportloss.errors import ConfigError
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.sessions.devices import Device

__all__ = ["check_target"]


def check_target(folder: Path, manifest: Manifest, device: Device) -> None:
    """Check that a device can run graphs of this target.

    Raises:
        ConfigError: The graphs are for ONNX Runtime's CPU provider, and this is another device.
    """
    if manifest.provider == "cpu" and device.kind != "cpu":
        raise ConfigError(
            f"device is {device}, but {folder} was exported for the CPU alone; export it with "
            "provider='any', or pass device='cpu'",
            argument="device",
        )
