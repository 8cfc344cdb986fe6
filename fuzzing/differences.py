"""Comparison of our readers with others: the onnx package, torch and safetensors.

A file that is checked with one reader and used with another is only safe if the two agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import onnx
import safetensors
from google.protobuf.message import DecodeError
from torch import _weights_only_unpickler as _unpickler

from exportloss.models import torch_file
from exportloss.runtime.artifact.onnx_files.onnx_file import OnnxValue, parse_onnx
from exportloss.runtime.artifact.tensor_file import read_tensor_file

__all__ = ["differences", "load_watched", "read_tensors_twice", "read_twice"]


def read_twice(content: bytes) -> None:
    """Read a model with both readers.

    Raises:
        ValueError: our reader refuses it.
        AssertionError: our reader accepts it, and the two see different models.
    """
    if found := differences(content):
        raise AssertionError("; ".join(found))


def differences(content: bytes) -> list[str]:
    """Describe what the readers see differently; empty if the other one refuses the file.

    Raises:
        ValueError: our reader refuses it.
    """
    ours = parse_onnx(content)
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError:  # ONNX Runtime refuses it as well
        return []
    found = []
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if opsets[-1:] != [ours.opset]:
        found.append(f"opset {opsets}, not {ours.opset}")
    for what, values, seen in (
        ("inputs", model.graph.input, ours.inputs),
        ("outputs", model.graph.output, ours.outputs),
    ):
        if (theirs := [(value.name, _described(value)) for value in values]) != list(seen.items()):
            found.append(f"{what} {theirs}, not {seen}")
    if any(map(_is_elsewhere, _tensors(model))):
        found.append("a tensor in another file")
    return found


def _described(value: onnx.ValueInfoProto) -> OnnxValue:
    if not value.type.HasField("tensor_type"):
        return OnnxValue(0)
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return OnnxValue(tensor.elem_type)
    sides = (
        side.dim_value if side.HasField("dim_value") else side.dim_param
        for side in tensor.shape.dim
    )
    return OnnxValue(tensor.elem_type, tuple(sides))


def _is_elsewhere(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.external_data) or tensor.data_location == onnx.TensorProto.EXTERNAL


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor in a model, found through the messages' descriptors."""
    waiting = [model]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if hasattr(value, "ListFields") else value)


def load_watched(path: Path) -> object:
    """Load a file of torch, and check that torch looks up no name that our search missed.

    Raises:
        ArtifactError: the file is refused.
        AssertionError: torch looked up another name.
    """
    searched: set[str] = set()
    looked_up: set[str] = set()
    search, look_up = torch_file._named_objects, _unpickler._read_global_instruction

    def watched_search(*arguments: object) -> frozenset[str]:
        names = search(*arguments)
        searched.update(names)
        return names

    def watched_look_up(*arguments: object) -> tuple[str, str]:
        module, name = look_up(*arguments)
        looked_up.add(f"{module}.{name}")
        return module, name

    with (
        mock.patch.object(torch_file, "_named_objects", watched_search),
        mock.patch.object(_unpickler, "_read_global_instruction", watched_look_up),
    ):
        try:
            return torch_file.load_torch_file(path)
        finally:
            if hidden := looked_up - searched:
                raise AssertionError(
                    f"torch looked up {sorted(hidden)[:3]}, which our search missed"
                )


def read_tensors_twice(path: Path) -> None:
    """Read a safetensors file with our reader and with the safetensors package.

    Raises:
        ArtifactError: our reader refuses it.
        SafetensorError: our reader accepts it, the package does not.
        AssertionError: the two see different tensors.
    """
    ours = read_tensor_file(path).tensors
    theirs = dict(safetensors.deserialize(path.read_bytes()))
    if ours.keys() != theirs.keys():
        raise AssertionError(f"names {sorted(theirs)}, not {sorted(ours)}")
    for name, tensor in ours.items():
        found = theirs[name]
        if (list(tensor.shape), tensor.dtype) != (found["shape"], found["dtype"]):
            raise AssertionError(f"{name!r} is {found['dtype']} {found['shape']}, not {tensor}")
        if tensor.content != found["data"]:
            raise AssertionError(f"{name!r} has other values")
