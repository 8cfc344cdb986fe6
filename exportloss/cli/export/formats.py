"""The formats of `exportloss export`: folders that train, and files of a detector."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportloss.cli.arguments import ExportSettings
from exportloss.cli.terminal import say
from exportloss.errors import ConfigError
from exportloss.export.detector.nms_settings import NmsSettings
from exportloss.runtime.artifact.kinds import KINDS, ArtifactKind
from exportloss.runtime.artifact.manifest import Manifest

if TYPE_CHECKING:
    from exportloss.cli.export.weights import LoadedDetector
    from exportloss.loss.protocol import DetectionLoss

__all__ = ["FILES", "FOLDERS", "DetectorFormat", "FolderFormat", "about_formats"]


@dataclasses.dataclass(frozen=True)
class FolderFormat:
    """A kind of artifact.

    Attributes:
        about: Description for a help text.
        write: Function `write(settings, detector, loss, folder, exist_ok)`.
    """

    about: str
    write: Callable[[ExportSettings, LoadedDetector, DetectionLoss, Path, bool], Manifest]


@dataclasses.dataclass(frozen=True)
class DetectorFormat:
    """A kind of file.

    Attributes:
        about: Description for a help text.
        write: Function `write(settings, detector, nms, path)`.
    """

    about: str
    write: Callable[[ExportSettings, LoadedDetector, NmsSettings | None, Path], None]


def about_formats() -> str:
    """Return the descriptions of all formats, for a help text."""
    abouts = [(name, one.about) for name, one in FOLDERS.items()]
    abouts += [(name, one.about) for name, one in FILES.items()]
    return "; ".join(f"{name}: {about}" for name, about in abouts)


def _writer(kind: ArtifactKind) -> Callable[..., Manifest]:
    """Make the writer of a kind of artifact; it passes on the settings that its exporter takes."""

    def write(
        settings: ExportSettings,
        detector: LoadedDetector,
        loss: DetectionLoss,
        folder: Path,
        exist_ok: bool,
    ) -> Manifest:
        options: dict[str, Any] = {name: getattr(settings, name) for name in kind.options}
        if "memory" in options:
            options["tell"] = say
        if not kind.trains:
            options["head"] = getattr(detector.model, "detect", None)
        manifest: Manifest = kind.load_exporter()(
            *((detector.model, loss) if kind.trains else (loss,)),
            folder,
            image_size=settings.image_size,
            batch_size=settings.batch_size,
            max_targets=settings.max_targets,
            names=detector.names,
            exist_ok=exist_ok,
            **options,
        )
        return manifest

    return write


def _write_state_dict(
    settings: ExportSettings, detector: LoadedDetector, nms: NmsSettings | None, path: Path
) -> None:
    from exportloss.models import YoloV5, save_state_dict

    if not isinstance(detector.model, YoloV5):
        raise ConfigError(
            f"--format {path.suffix[1:]} applies to YOLOv5's detectors, not to "
            f"{type(detector.model).__name__}; leave it out"
        )
    save_state_dict(detector.model, path, names=detector.names)


def _write_inference(
    settings: ExportSettings, detector: LoadedDetector, nms: NmsSettings | None, path: Path
) -> None:
    from exportloss.export import export_inference

    export_inference(
        detector.model, path, image_size=settings.image_size, names=detector.names, nms=nms
    )


FOLDERS = {kind.format: FolderFormat(kind.about, _writer(kind)) for kind in KINDS.values()}
FILES = {  # by suffix
    "pt": DetectorFormat("a state dict for YOLOv5", _write_state_dict),
    "safetensors": DetectorFormat("the same, with class names and anchors", _write_state_dict),
    "onnx": DetectorFormat("the detector for inference, in YOLOv5's layout", _write_inference),
}
