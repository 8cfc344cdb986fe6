"""The formats of `exportloss export`: folders that train, and files of a detector."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from exportloss.cli.arguments import ExportSettings
from exportloss.runtime.manifest import Manifest

if TYPE_CHECKING:
    from exportloss.cli.weights import LoadedDetector
    from exportloss.export import NmsSettings
    from exportloss.loss import YoloLoss

__all__ = ["FILES", "FOLDERS", "FileFormat", "FolderFormat", "about_formats"]


@dataclasses.dataclass(frozen=True)
class FolderFormat:
    """A kind of artifact: what it is, and `write(settings, detector, loss, folder, exist_ok)`."""

    about: str
    write: Callable[[ExportSettings, LoadedDetector, YoloLoss, Path, bool], Manifest]


@dataclasses.dataclass(frozen=True)
class FileFormat:
    """A kind of file: what it is, and `write(settings, detector, nms, path)`."""

    about: str
    write: Callable[[ExportSettings, LoadedDetector, NmsSettings | None, Path], None]


def about_formats() -> str:
    """Return what each format is, for a help text."""
    abouts = [(name, one.about) for name, one in FOLDERS.items()]
    abouts += [(name, one.about) for name, one in FILES.items()]
    return "; ".join(f"{name}: {about}" for name, about in abouts)


def _write_training(exporter: str) -> Callable[..., Manifest]:
    """Make the writer of a kind of artifact that trains; all take the same settings, but one."""

    def write(
        settings: ExportSettings,
        detector: LoadedDetector,
        loss: YoloLoss,
        folder: Path,
        exist_ok: bool,
    ) -> Manifest:
        import exportloss.export

        export: Callable[..., Manifest] = getattr(exportloss.export, exporter)
        is_step = exporter == "export_train_step"
        return export(
            detector.model,
            loss,
            folder,
            image_size=settings.image_size,
            batch_size=settings.batch_size,
            max_targets=settings.max_targets,
            optimizer=settings.optimizer,
            freeze=settings.freeze,
            ema=settings.ema,
            head=settings.head,
            names=detector.names,
            exist_ok=exist_ok,
            **({"precision": settings.precision, "provider": settings.provider} if is_step else {}),
        )

    return write


def _write_loss(
    settings: ExportSettings,
    detector: LoadedDetector,
    loss: YoloLoss,
    folder: Path,
    exist_ok: bool,
) -> Manifest:
    from exportloss.export import export_loss

    return export_loss(
        loss,
        folder,
        image_size=settings.image_size,
        batch_size=settings.batch_size,
        max_targets=settings.max_targets,
        tiers=settings.tiers,
        gradients=settings.gradients,
        layout=settings.layout,
        provider=settings.provider,
        head=detector.model.detect,
        names=detector.names,
        exist_ok=exist_ok,
    )


def _write_state_dict(
    settings: ExportSettings, detector: LoadedDetector, nms: NmsSettings | None, path: Path
) -> None:
    from exportloss.models import save_state_dict

    save_state_dict(detector.model, path, names=detector.names)


def _write_inference(
    settings: ExportSettings, detector: LoadedDetector, nms: NmsSettings | None, path: Path
) -> None:
    from exportloss.export import export_inference

    export_inference(
        detector.model, path, image_size=settings.image_size, names=detector.names, nms=nms
    )


FOLDERS = {
    "ort": FolderFormat(
        "ONNX Runtime training artifacts", _write_training("export_training_artifacts")
    ),
    "step": FolderFormat(
        "a training step in standard operators, for any onnxruntime",
        _write_training("export_train_step"),
    ),
    "loss": FolderFormat("the loss alone", _write_loss),
}
FILES = {  # by suffix
    "pt": FileFormat("a state dict for YOLOv5", _write_state_dict),
    "safetensors": FileFormat("the same, with class names and anchors", _write_state_dict),
    "onnx": FileFormat("the detector for inference, in YOLOv5's layout", _write_inference),
}
