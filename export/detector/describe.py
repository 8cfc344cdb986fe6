"""The manifest of an export, before its files are hashed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from torch import Tensor, nn

import exportloss
from exportloss.errors import ExportError
from exportloss.export.detector.wrapper import TrainableDetector
from exportloss.export.torch_export import OPSET
from exportloss.loss.protocol import DetectionLoss
from exportloss.loss.yolo_loss import YoloLoss
from exportloss.loss_kinds import tagged
from exportloss.runtime.artifact.manifest import Kind, Manifest, OptimizerName, ParameterGroupNames

__all__ = [
    "anchors_in_pixels",
    "class_names",
    "describe",
    "graph_metadata",
    "inference_metadata",
    "versions",
]

_PACKAGES = ("torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime-training-cpu", "onnxruntime")


def describe(
    detector: TrainableDetector,
    *,
    kind: Kind,
    optimizer: OptimizerName,
    names: Sequence[str] | None,
    model_name: nn.Module,
    **more: Any,
) -> Manifest:
    """Return the manifest of a detector's export; `more` are further fields of it."""
    groups = detector.groups
    return Manifest(
        kind=kind,
        model=str(getattr(model_name, "name", type(model_name).__name__)),
        names=class_names(names, detector.loss.num_classes),
        anchors=anchors_in_pixels(detector.loss),
        strides=tuple(map(float, detector.loss.strides)),
        image_size=(detector.images.shape[2], detector.images.shape[3]),
        batch_size=detector.images.shape[0],
        max_targets=detector.targets.shape[0],
        loss=detector.loss.config,
        optimizer=optimizer,
        head=detector.image_loss.head,
        groups=ParameterGroupNames(
            weights=groups.weights, norms=groups.norms, biases=groups.biases
        ),
        statistics=detector.statistics,
        opset=OPSET,
        versions=versions(),
        **more,
    )


def anchors_in_pixels(loss: DetectionLoss) -> tuple[tuple[tuple[float, float], ...], ...]:
    """Return the loss's anchors, (nl, na, 2), in input pixels; none if it has none."""
    if not isinstance(loss, YoloLoss):
        return ()
    pixels: Tensor = loss.anchors * loss.strides[:, None, None]
    return tuple(tuple((w, h) for w, h in level) for level in pixels.tolist())


def class_names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """Return the class names, or the class numbers as names.

    Raises:
        ExportError: the number of names is not that of the classes.
    """
    if names is None:
        return tuple(str(index) for index in range(num_classes))
    if len(names) != num_classes:
        raise ExportError(
            f"got {len(names)} class names for {num_classes} classes; pass one name per class"
        )
    return tuple(str(name) for name in names)


def inference_metadata(names: Sequence[str], strides: Sequence[float]) -> dict[str, str]:
    """Return the metadata of a detector's graph: those that YOLOv5 reads, and the producer."""
    return {
        "names": str(dict(enumerate(names))),
        "stride": str(int(max(strides))),
        "producer": f"exportloss {exportloss.__version__}",
    }


def graph_metadata(manifest: Manifest) -> dict[str, str]:
    """Return the metadata of an artifact's graph: those for inference, and the loss settings."""
    return {
        **inference_metadata(manifest.names, manifest.strides),
        "loss": json.dumps(tagged(manifest.loss), allow_nan=False),
    }


def versions() -> dict[str, str]:
    """Return the versions of exportloss and of the installed packages that write an artifact."""
    found = {"exportloss": exportloss.__version__}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
