"""Reading of named tensors from a file of weights, whatever detector they are of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from exportloss.class_names import tidy_names
from exportloss.errors import ArtifactError, excerpt
from exportloss.models.pickled_model import modules_of, tensors_of
from exportloss.models.state_dict import WEIGHTS_FORMAT
from exportloss.models.torch_file import StandIn, load_torch_file
from exportloss.runtime.artifact.state import take_state
from exportloss.runtime.artifact.tensor_file import StoredTensor, read_tensor_file

__all__ = [
    "SUFFIXES",
    "WeightsFile",
    "class_names",
    "read_weights_file",
    "refuse_integers",
    "with_path",
]

SUFFIXES = (".pt", ".pth", ".safetensors")

_EMA = "ema/"
_NOT_WEIGHTS = (_EMA, "optimizer/", "balance")  # prefixes in saved training states
_OURS, _OUR_STATE = "exportloss-", "exportloss-state/"  # prefixes of `format` in the metadata
_LONGEST_MESSAGE = 1_000  # characters; names in a file may be of any length
_DTYPES = {  # by their names in safetensors
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8},
    "BOOL": torch.bool,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """Contents of a file of weights. The tensors are checked, nothing else is.

    Attributes:
        what: Description of the weights, such as "the moving average of a checkpoint".
        tensors: Tensors by name: float32, counters int64.
        names: Class names; None if the file has none.
        anchors: Anchors in pixels; None if the file has none.
        strides: Pixels per cell, per level; None if the file has none.
        yaml: Description of the model; None if the file has none.
        classes: Class names of the modules of a whole pickled model, by path; else empty.
    """

    what: str
    tensors: Mapping[str, Tensor]
    names: Any = None
    anchors: Any = None
    strides: Any = None
    yaml: Any = None
    classes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_weights_file(
    path: Path, *, packages: Sequence[str] = (), expected: str = "weights"
) -> WeightsFile:
    """Read a file of weights; nothing in it is executed.

    Args:
        path: File that ends in .pt, .pth or .safetensors, at most 8 GiB.
        packages: Packages of which a pickled model may name classes, beside YOLOv5's own; their
            objects are read as data.
        expected: Description of what the file should be, for messages.

    Raises:
        ArtifactError: the file is missing, unreadable or refused, or holds no tensors by name.
    """
    if not path.is_file():
        raise ArtifactError(f"{path}: no such file; expected {expected}")
    if path.suffix not in SUFFIXES:
        raise ArtifactError(
            f"{path} is not a file of weights; expected one in {', '.join(SUFFIXES)}"
        )
    with with_path(path):
        if path.suffix == ".safetensors":
            contents = _read_safetensors(path)
        else:
            contents = _read_torch(path, packages)
        return dataclasses.replace(
            contents, tensors=_checked(contents.tensors, path.stat().st_size)
        )


def class_names(value: Any) -> tuple[str, ...] | None:
    """Return the class names of a file's contents; None if it has none.

    Raises:
        ArtifactError: the value is neither a list of text nor a mapping from 0, 1, ...
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = [value.get(index) for index in range(len(value))]
    if not isinstance(value, (list, tuple)) or not all(isinstance(n, (str, int)) for n in value):
        raise ArtifactError("its class names are neither a list of text nor numbered from 0")
    return tidy_names(value)


def refuse_integers(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Check that a file has no integers where a detector computes in floating point.

    Those of a quantised file mean nothing without its scales and zero points, which are not read.

    Args:
        tensors: Tensors of a file by name.
        own: Tensors of the detector by name.

    Raises:
        ArtifactError: it has.
    """
    wrong = [
        name
        for name, tensor in own.items()
        if tensor.is_floating_point() and name in tensors and not tensors[name].is_floating_point()
    ]
    if wrong:
        raise ArtifactError(
            f"{wrong[0]!r}{f' and {len(wrong) - 1} others' * (len(wrong) > 1)} hold integers; "
            "expected floating point. Integers of a quantised file mean nothing without its "
            "scales: give the weights as they were before, or convert them"
        )


@contextmanager
def with_path(path: Path) -> Iterator[None]:
    """Name the file in errors about its contents, and limit their length."""
    try:
        yield
    except ArtifactError as error:
        message = str(error) if str(path) in str(error) else f"{path}: {error}"
        raise ArtifactError(excerpt(message, _LONGEST_MESSAGE)) from error


def _read_safetensors(path: Path) -> WeightsFile:
    file = read_tensor_file(path)
    about, what = file.about, "a state dict"
    tensors = {name: _as_tensor(tensor) for name, tensor in file.tensors.items()}
    if not about.get("format", "").startswith(_OURS):
        return WeightsFile(what=what, tensors=tensors)
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
    return WeightsFile(what=what, tensors=weights | averaged, **said)


def _as_tensor(stored: StoredTensor) -> Tensor:
    dtype = _DTYPES[stored.dtype]
    if not stored.content:  # torch makes no view of an empty buffer
        return torch.zeros(stored.shape, dtype=dtype)
    # A copy, since the values may be misaligned for their type.
    return torch.frombuffer(bytearray(stored.content), dtype=dtype).view(stored.shape)


def _read_torch(path: Path, packages: Sequence[str]) -> WeightsFile:
    value = load_torch_file(path, packages)
    what = "a state dict"
    if isinstance(value, Mapping) and ("model" in value or "ema" in value):
        averaged = isinstance(value.get("ema"), (StandIn, Mapping))
        value = value["ema"] if averaged else value.get("model")
        what = "the moving average of a checkpoint" if averaged else "a checkpoint"
    if isinstance(value, StandIn):
        modules = modules_of(value)
        return WeightsFile(
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
        return WeightsFile(what=what, tensors=value)
    raise ArtifactError(
        f"no weights: expected a detector's checkpoint or tensors by name, got {_describe(value)}"
    )


def _describe(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dictionary of {', '.join(map(repr, list(value)[:3])) or 'nothing'}"
    return type(value).__name__


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
