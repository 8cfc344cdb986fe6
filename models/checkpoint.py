"""Reading of YOLOv5's detectors from its checkpoints and other files, into one form."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exportloss.errors import ArtifactError
from exportloss.models.weights_file import (
    SUFFIXES,
    WeightsFile,
    class_names,
    read_weights_file,
    with_path,
)
from exportloss.models.yolov5 import name_by_shape

__all__ = ["SUFFIXES", "Checkpoint", "read_checkpoint"]

_MOST_NUMBERS = 1_000  # of strides or anchors
_ANCHORS_PER_LEVEL = 3  # default for a file without anchors


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights of a YOLOv5 detector, and its description in their file.

    Attributes:
        path: Path of the file.
        what: Description of the weights, such as "the moving average of a checkpoint".
        model: Name of the detector, such as `yolov5n6` or `yolov5s-v5.0`.
        num_classes: Number of classes, nc.
        tensors: Tensors by YOLOv5's names: float32, counters int64.
        names: Class names, nc of them; None if the file has none.
        anchors: Anchors as w, h, w, h, ... in pixels, per level; None if the file has none.
        strides: Pixels per cell, per level; None if the file has none.
        yaml: YOLOv5's description of the model (`depth_multiple`, `backbone`, ...); empty if the
            file has none.
        classes: Class names of the modules of a whole pickled model, by path; else empty.
    """

    path: Path
    what: str
    model: str
    num_classes: int
    tensors: Mapping[str, Tensor]
    names: tuple[str, ...] | None = None
    anchors: tuple[tuple[float, ...], ...] | None = None
    strides: tuple[float, ...] | None = None
    yaml: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a file of weights; nothing in it is executed.

    The file may be a checkpoint of YOLOv5 v5.0 to v7.0 (a whole pickled model, of which the moving
    average is taken if there is one), a state dict with YOLOv5's names (.pt, .pth, .safetensors)
    or a saved training state.

    Args:
        path: File that ends in .pt, .pth or .safetensors, at most 8 GiB.

    Raises:
        ArtifactError: the file is missing, unreadable or refused, or holds no YOLOv5 detector.
    """
    path = Path(path)
    expected = f"weights ({', '.join(SUFFIXES)}) or a size such as yolov5n"
    contents = read_weights_file(path, expected=expected)
    with with_path(path):
        return _interpret(path, contents)


def _interpret(path: Path, contents: WeightsFile) -> Checkpoint:
    tensors = dict(contents.tensors)
    model, head = _identify(tensors)
    tensors.pop(f"{head}.anchor_grid", None)  # v5.0 also stores the anchors in pixels
    anchors = _anchors(contents.anchors, tensors.get(f"{head}.anchors"))
    outputs = tensors[f"{head}.m.0.bias"].numel()
    na = _ANCHORS_PER_LEVEL if anchors is None else anchors.shape[1]
    num_classes = outputs // na - 5
    if outputs % na or num_classes < 1:
        raise ArtifactError(f"its head has {outputs} outputs; expected {na} x (5 + classes)")
    strides = contents.strides
    return Checkpoint(
        path=path,
        what=contents.what,
        model=model,
        num_classes=num_classes,
        tensors=tensors,
        names=_class_names(contents.names, num_classes),
        anchors=None if anchors is None else tuple(map(tuple, anchors.flatten(1).tolist())),
        strides=None if strides is None else tuple(_numbers("strides", strides, 1).tolist()),
        yaml=contents.yaml if isinstance(contents.yaml, Mapping) else {},
        classes=contents.classes,
    )


def _identify(tensors: Mapping[str, Tensor]) -> tuple[str, str]:
    """Return the name of the model and that of its head, `model.24`."""
    # Only the head's convolutions have a bias.
    heads = [m for name in tensors if (m := re.fullmatch(r"(model\.(\d{1,3}))\.m\.0\.bias", name))]
    focus = tensors.get("model.0.conv.conv.weight")
    stem = tensors.get("model.0.conv.weight") if focus is None else focus
    if len(heads) != 1 or stem is None:
        raise ArtifactError(
            "it holds no YOLOv5 detector: expected tensors such as 'model.0.conv.weight' and "
            f"'model.24.m.0.bias', got {', '.join(map(repr, list(tensors)[:3])) or 'none'}"
        )
    # The kernel has 3 channels of 6 x 6, or with Focus 12 channels of 3 x 3.
    layers, channels = int(heads[0][2]) + 1, stem.numel() // 108
    model = name_by_shape(num_layers=layers, stem=channels, focus=focus is not None)
    if model is None:
        raise ArtifactError(
            f"it is none of YOLOv5's detectors: it has {layers} layers, the first of {channels} "
            "channels; expected size n, s, m, l or x, or its P6 form, of v6.0 to v7.0, or those "
            "from s on of v5.0"
        )
    return model, heads[0][1]


def _anchors(pixels: Any, cells: Tensor | None) -> Tensor | None:
    """Return anchors (nl, na, 2) in pixels, given in pixels or in cells of their level."""
    if cells is not None:
        cells = _numbers("anchors", cells, 3)
        pixels = cells * (8 * 2.0 ** torch.arange(len(cells))).view(-1, 1, 1)
    return None if pixels is None else _numbers("anchors", pixels, 3)


def _numbers(what: str, value: Any, dimensions: int) -> Tensor:
    is_list = isinstance(value, (list, tuple))
    count = value.numel() if isinstance(value, Tensor) else len(value) if is_list else 0
    # A pickled list can hold another one many times over, and that one a third.
    if count > _MOST_NUMBERS or (
        is_list and dimensions == 1 and not all(isinstance(one, (int, float)) for one in value)
    ):
        raise ArtifactError(f"its {what} are not an array of at most {_MOST_NUMBERS} numbers")
    try:
        numbers = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ArtifactError(f"its {what} are not an array of numbers: {error}") from error
    if numbers.ndim != dimensions or not (numbers.isfinite() & (numbers > 0)).all():
        raise ArtifactError(
            f"its {what} have shape {tuple(numbers.shape)}; expected {dimensions} dimensions of "
            "finite numbers above 0"
        )
    return numbers


def _class_names(value: Any, num_classes: int) -> tuple[str, ...] | None:
    names = class_names(value)
    if names is not None and len(names) != num_classes:
        raise ArtifactError(f"it names {len(names)} classes; its head has {num_classes}")
    return names
