"""A detector from a size name or from a file of weights. Needs torch when called."""

from __future__ import annotations

import dataclasses
import re
from importlib import import_module
from pathlib import Path
from typing import Any

from exportloss.cli.arguments import ExportSettings
from exportloss.cli.export.own_model import is_function_name, load_own_model, rebuilding
from exportloss.errors import ArtifactError, ConfigError, InstallationError
from exportloss.runtime.sessions.installation import how_to_install

__all__ = ["LoadedDetector", "is_file_name", "is_size_name", "load_detector"]


_SIZE = re.compile(r"(yolov5)?[nsmlx]6?(-v5\.0)?")
_ORIGINAL = re.compile(r"yolov5[nsmlx]6?\.pt")
_RELEASES = "https://github.com/ultralytics/yolov5/releases"


def is_size_name(weights: str) -> bool:
    """Return whether `--weights` names a size, such as `yolov5n` or `n`."""
    return _SIZE.fullmatch(weights) is not None


def is_file_name(weights: str) -> bool:
    """Return whether `--weights` names a file rather than a size."""
    return any(mark in weights.removesuffix("-v5.0") for mark in "./\\")


def _require_export_packages(weights: str) -> None:
    """Check that the packages of an export are installed.

    Raises:
        InstallationError: A package is missing.
    """
    try:
        for package in ("torch", "onnx", "onnx_ir", "onnxscript"):
            import_module(package)
    except ImportError as error:
        raise InstallationError(
            f"{weights} is neither a folder of artifacts nor a run, so that it would be exported, "
            f"which needs {error.name}; {how_to_install('export')} (torch, onnx, onnxscript), or "
            "export on another machine and copy the folder"
        ) from error


@dataclasses.dataclass(frozen=True)
class LoadedDetector:
    """A detector to export.

    Attributes:
        model: Detector.
        names: Class names.
        about: Origin of its weights.
        warning: What the user may not expect of them; empty if nothing.
    """

    model: Any  # a `DetectorModel`
    names: tuple[str, ...]
    about: str
    warning: str = ""


def load_detector(settings: ExportSettings) -> LoadedDetector:
    """Build the detector that the settings name.

    For another number of classes than the file's, the head starts with random weights.

    Raises:
        InstallationError: torch or another package that an export needs is missing.
        ConfigError: There is no such size, the number of classes is unknown, or the file is of
            another size than `--model`.
        ArtifactError: The file is missing, unreadable, refused or no YOLOv5 detector.
    """
    if settings.model is not None and is_function_name(settings.model):
        return _load_own(settings, settings.model)
    # A mistyped size is refused by the model, which lists them all.
    may_be_size = settings.weights.startswith("yolov5") or is_size_name(settings.weights)
    if (is_file_name(settings.weights) or not may_be_size) and not Path(settings.weights).exists():
        hint = ""
        if _ORIGINAL.fullmatch(Path(settings.weights).name):
            hint = f". YOLOv5's own weights are files of {_RELEASES}"
        raise ArtifactError(
            f"{settings.weights}: no such file or folder; correct --weights, which is a folder of "
            f"artifacts, a run, a file of weights, or a size such as yolov5n{hint}"
        )
    _require_export_packages(settings.weights)
    import torch

    from exportloss.models import read_checkpoint, transfer, yolov5

    torch.manual_seed(settings.seed)
    wanted, warning = settings.num_classes, ""
    if not is_file_name(settings.weights):
        if wanted is None:
            raise ConfigError("the number of classes is unknown; pass --data data.yaml, or --nc 80")
        model, names = yolov5(settings.weights, wanted), settings.names
        about = f"random, seed {settings.seed}"
        warning = (
            "they know no objects; for trained ones pass YOLOv5's own file, "
            f"{model.name}.pt (AGPL-3.0), from {_RELEASES}"
        )
    else:
        checkpoint = read_checkpoint(settings.weights)
        if settings.model not in (None, checkpoint.model, checkpoint.model[len("yolov5") :]):
            raise ConfigError(
                f"--model {settings.model}: {checkpoint.path} is a {checkpoint.model}; leave it out"
            )
        transferred = transfer(checkpoint, wanted)
        model, names = transferred.model, settings.names
        about = (
            f"transferred {transferred.taken} of {transferred.total} tensors from "
            f"{checkpoint.path} ({checkpoint.what})"
        )
        if checkpoint.anchors is None:
            about += "; it has no anchors: YOLOv5's own are used"
        if model.num_classes != checkpoint.num_classes:
            about += (
                f"; the head starts anew, for {wanted} classes instead of {checkpoint.num_classes}"
            )
        else:
            names = names or checkpoint.names
    return LoadedDetector(model, names or tuple(map(str, range(model.num_classes))), about, warning)


def _load_own(settings: ExportSettings, function: str) -> LoadedDetector:
    """Return the detector of the user's own function, with a file's weights if it is given."""
    _require_export_packages(function)
    import torch

    from exportloss.models.own_weights import load_own_weights

    torch.manual_seed(settings.seed)
    model = load_own_model(function, settings.num_classes)
    names, about = settings.names, f"those of {function}, seed {settings.seed}"
    if settings.weights:
        loaded = load_own_weights(model, settings.weights, rebuild=rebuilding(function))
        names = names or loaded.names
        about = f"{loaded.taken} of {loaded.total} tensors from {settings.weights} ({loaded.what})"
        if loaded.num_classes != model.num_classes:
            about += (
                f"; those that depend on the number of classes start anew, for "
                f"{model.num_classes} classes instead of {loaded.num_classes}"
            )
    return LoadedDetector(model, names or tuple(map(str, range(model.num_classes))), about)
