"""Writing the formats of an export, and what is printed about each."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportloss.cli.arguments import ExportSettings
from exportloss.cli.export.formats import FILES, FOLDERS
from exportloss.cli.export.weights import LoadedDetector
from exportloss.cli.terminal import say
from exportloss.errors import ConfigError
from exportloss.export.detector.nms_settings import NmsSettings
from exportloss.runtime.artifact.kinds import formats_taking
from exportloss.runtime.artifact.manifest import Manifest

if TYPE_CHECKING:
    from exportloss.loss.protocol import DetectionLoss

__all__ = ["export_artifacts"]


def export_artifacts(
    settings: ExportSettings,
    detector: LoadedDetector,
    folders: Mapping[str, Path],
    *,
    files: Mapping[str, Path] | None = None,
    nms: NmsSettings | None = None,
    exist_ok: bool = False,
) -> dict[str, Manifest]:
    """Export each format into its folder or file, and print what was written.

    Returns:
        The manifests of the folders, by format.

    Raises:
        ExportLossError: a setting is wrong, or the export was refused.
    """
    for option, is_given in (
        ("precision", settings.precision != "float32"),
        ("memory", settings.memory is not None),
    ):
        if is_given and (others := folders.keys() - formats_taking(option)):
            raise ConfigError(
                f"--{option} {getattr(settings, option)} is of --format step, not of "
                f"{', '.join(others)}; leave one of them out"
            )
    model = detector.model
    height, width = settings.image_size
    name = getattr(model, "name", type(model).__name__)
    about = f"{name}: {model.num_classes} classes, images of {height} x {width}"
    if folders:
        about += f", batches of {settings.batch_size}, up to {settings.max_targets} targets"
    say(f"{about}\nweights: {detector.about}")
    if detector.warning:
        say(f"warning: {detector.warning}")
    loss = _make_loss(settings, model) if folders else None  # a file of the detector has none
    for name, path in (files or {}).items():
        started = time.monotonic()
        FILES[name].write(settings, detector, nms, path)
        say(f"{path} ({time.monotonic() - started:.1f} s)")
    manifests = {}
    for name, folder in folders.items():
        assert loss is not None
        started = time.monotonic()
        manifest = FOLDERS[name].write(settings, detector, loss, folder, exist_ok)
        _print_folder(folder, manifest, model, time.monotonic() - started)
        manifests[name] = manifest
    return manifests


def _make_loss(settings: ExportSettings, model: Any) -> DetectionLoss:
    """Make the loss of a detector, and print its gains."""
    from exportloss.export.detector.losses import make_loss

    config = settings.loss
    if settings.scale_gains:
        config = config.scaled(
            levels=len(model.strides),
            num_classes=model.num_classes,
            image_size=settings.image_size,
        )
    loss = make_loss(
        config,
        strides=model.strides,
        num_classes=model.num_classes,
        anchors=getattr(model, "anchors_px", ()),
    )
    scaled = "" if config is settings.loss else ", scaled to model and image size"
    gains = ", ".join(f"{name} {getattr(config, name):.4g}" for name in loss.terms)
    say(f"gains: {gains}{scaled}")
    return loss


def _print_folder(folder: Path, manifest: Manifest, model: Any, seconds: float) -> None:
    say(f"{folder} ({manifest.kind}, {seconds:.1f} s)")
    if manifest.optimizer is not None:
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        total, trained = sum(sizes.values()), sum(sizes[name] for name in manifest.groups.all)
        say(
            f"  {total:,} parameters, {total - trained:,} of them frozen, {manifest.optimizer}, "
            f"{manifest.head} head"
        )
    for name, entry in manifest.files.items():
        say(f"  {name:24}{entry.size / 1e3:>12,.1f} kB")
