"""Reading of weights from YOLOv5's checkpoints and other files, into one form."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exportloss.class_names import tidy_names
from exportloss.errors import ArtifactError, excerpt
from exportloss.models.pickled_model import modules_of, tensors_of
from exportloss.models.state_dict import WEIGHTS_FORMAT
from exportloss.models.torch_file import StandIn, load_torch_file
from exportloss.models.yolov5 import name_by_shape
from exportloss.runtime.artifact.state import take_state
from exportloss.runtime.artifact.tensor_file import StoredTensor, read_tensor_file

__all__ = ["SUFFIXES", "Checkpoint", "read_checkpoint"]

SUFFIXES = (".pt", ".pth", ".safetensors")

_EMA = "ema/"
_NOT_WEIGHTS = (_EMA, "optimizer/", "balance")  # prefixes in saved training states
_OURS, _OUR_STATE = "exportloss-", "exportloss-state/"  # prefixes of `format` in the metadata
_LONGEST_MESSAGE = 1_000  # characters; names in a file may be of any length
_MOST_NUMBERS = 1_000  # of strides or anchors
_DTYPES = {  # by their names in safetensors
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8},
    "BOOL": torch.bool,
}
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
    if not path.is_file():
        raise ArtifactError(
            f"{path}: no such file; expected weights ({', '.join(SUFFIXES)}) or a size such as "
            "yolov5n"
        )
    if path.suffix not in SUFFIXES:
        raise ArtifactError(
            f"{path} is not a file of weights; expected one in {', '.join(SUFFIXES)}"
        )
    try:
        contents = (_read_safetensors if path.suffix == SUFFIXES[-1] else _read_torch)(path)
        return _interpret(path, contents)
    except ArtifactError as error:
        message = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise ArtifactError(excerpt(message, _LONGEST_MESSAGE)) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class _UncheckedContents:
    """Contents of a file, none of which is checked yet."""

    what: str
    tensors: Mapping[str, Tensor]
    names: Any = None
    anchors: Any = None
    strides: Any = None
    yaml: Any = None
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def _read_safetensors(path: Path) -> _UncheckedContents:
    file = read_tensor_file(path)
    about, what = file.about, "a state dict"
    tensors = {name: _as_tensor(tensor) for name, tensor in file.tensors.items()}
    if not about.get("format", "").startswith(_OURS):
        return _UncheckedContents(what=what, tensors=tensors)
    if about["format"].startswith(_OUR_STATE):
        take_state(file, path)  # checks the content's checksum
        what = "a training state"
    elif WEIGHTS_FORMAT.number(about["format"]) is not None:
        WEIGHTS_FORMAT.check(about["format"], path)
    said: dict[str, Any] = {}
    for key in ("names", "anchors", "strides"):
        try:
            said[key] = json.loads(about[key]) if key in about else None
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"its metadata {key!r} is not JSON: {error}") from error
    averaged = {name.removeprefix(_EMA): t for name, t in tensors.items() if name.startswith(_EMA)}
    weights = {n: t for n, t in tensors.items() if not n.startswith(_NOT_WEIGHTS)}
    if averaged:
        what = "the moving average of a training state"
    return _UncheckedContents(what=what, tensors=weights | averaged, **said)


def _as_tensor(stored: StoredTensor) -> Tensor:
    dtype = _DTYPES[stored.dtype]
    if not stored.content:  # torch makes no view of an empty buffer
        return torch.zeros(stored.shape, dtype=dtype)
    # A copy, since the values may be misaligned for their type.
    return torch.frombuffer(bytearray(stored.content), dtype=dtype).view(stored.shape)


def _read_torch(path: Path) -> _UncheckedContents:
    value = load_torch_file(path)
    what = "a state dict"
    if isinstance(value, Mapping) and ("model" in value or "ema" in value):
        averaged = isinstance(value.get("ema"), (StandIn, Mapping))
        value = value["ema"] if averaged else value.get("model")
        what = "the moving average of a checkpoint" if averaged else "a checkpoint"
    if isinstance(value, StandIn):
        modules = modules_of(value)
        return _UncheckedContents(
            what=what,
            tensors=tensors_of(modules),
            names=value.attributes.get("names"),
            strides=value.attributes.get("stride"),
            yaml=value.attributes.get("yaml"),
            classes={name: type(module).__name__ for name, module in modules.items()},
        )
    if isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in value.items()
    ):
        return _UncheckedContents(what=what, tensors=value)
    raise ArtifactError(
        f"no weights: expected YOLOv5's checkpoint or tensors by name, got {_describe(value)}"
    )


def _describe(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary of {', '.join(map(repr, list(value)[:3])) or 'nothing'}"
    return type(value).__name__


def _interpret(path: Path, contents: _UncheckedContents) -> Checkpoint:
    tensors = _checked(contents.tensors, path.stat().st_size)
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


def _checked(tensors: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """Return plain tensors, at most `size` bytes (the file's size), as float32 or int64."""
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ArtifactError(f"{name!r} is not a plain tensor; expected a dense one on the CPU")
        if tensor.is_complex():
            raise ArtifactError(f"{name!r} is {tensor.dtype}; expected floating point or integers")
        held, used = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
        total += used
        if used > held or held > size:
            raise ArtifactError(f"{name!r} has shape {tuple(tensor.shape)} but fewer values")
    if total > size:
        raise ArtifactError(f"its tensors have {total} bytes, more than the {size} of the file")
    return {name: _as_weight(name, tensor.detach()) for name, tensor in tensors.items()}


def _as_weight(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor.long().contiguous()
    weight = tensor.float().contiguous()
    if not weight.isfinite().all():
        raise ArtifactError(f"{name!r} holds values that are not finite in float32")
    if name.endswith("running_var") and (weight < 0).any():
        raise ArtifactError(f"{name!r} holds negative values; expected variances")
    return weight


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
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = [value.get(index) for index in range(len(value))]
    if not isinstance(value, (list, tuple)) or not all(isinstance(n, (str, int)) for n in value):
        raise ArtifactError("its class names are neither a list of text nor numbered from 0")
    if len(value) != num_classes:
        raise ArtifactError(f"it names {len(value)} classes; its head has {num_classes}")
    return tidy_names(value)
