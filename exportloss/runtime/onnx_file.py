"""What an ONNX file says of itself, read without the onnx package and before any session is built.

Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from exportloss.errors import ArtifactError
from exportloss.reading import read_bounded
from exportloss.runtime.limits import MAX_MODEL_BYTES
from exportloss.runtime.protobuf import fields
from exportloss.runtime.seal import model_is_whole

__all__ = ["BOOL", "FLOAT", "UINT8", "OnnxFile", "OnnxValue", "parse_onnx", "read_onnx"]

FLOAT, UINT8, BOOL = 1, 2, 9  # TensorProto.DataType

_DEFAULT_DOMAINS = ("", "ai.onnx")
_DEEPEST = 100  # messages in messages, as in protocol buffers' own parsers

# Which fields of a message are messages that may hold tensors.
_CHILDREN: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_MODEL_GRAPH, _MODEL_OPSET = 7, 8
_GRAPH_INPUT, _GRAPH_OUTPUT = 11, 12
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor


@dataclasses.dataclass(frozen=True)
class OnnxValue:
    """An input or output of a graph.

    Attributes:
        type: TensorProto.DataType, such as `FLOAT`; 0 for what is no tensor.
        shape: sizes, or names of sizes that vary; None where any shape does.
    """

    type: int
    shape: tuple[int | str, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """Opset of the `ai.onnx` domain, and the inputs and outputs of the graph by name."""

    opset: int
    inputs: Mapping[str, OnnxValue]
    outputs: Mapping[str, OnnxValue]


def read_onnx(path: Path) -> bytes:
    """Return the content of an ONNX file that is complete and refers to no other file.

    Raises:
        ArtifactError: the file is missing, too large, damaged or no ONNX file, or keeps tensors
            elsewhere.
    """
    try:
        content = read_bounded(path, MAX_MODEL_BYTES, error=ArtifactError)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; expected a detector's .onnx file") from error
    if not model_is_whole(content):
        raise ArtifactError(
            f"{path} is damaged: its content does not match its sha256; copy or export it again"
        )
    try:
        parse_onnx(content)
    except ValueError as error:
        raise ArtifactError(f"{path} is no ONNX file that can be run: {error}") from error
    return content


def parse_onnx(content: bytes) -> OnnxFile:
    """Return what a model says of itself.

    External data (tensors in other files) is refused wherever it is: its place is the file's to
    choose, `../../etc/passwd` included, and no file here needs it.

    Raises:
        ValueError: this is no model, it is cut off, or tensors of it lie in other files.
    """
    model = memoryview(content)
    # A tensor in another file has a "location", so that most models are seen through at once.
    if b"location" in content:
        _refuse_external_data(model, "model", 0)
    opset = 0
    values: dict[int, dict[str, OnnxValue]] = {_GRAPH_INPUT: {}, _GRAPH_OUTPUT: {}}
    for field, value in _messages(model):
        if field == _MODEL_OPSET:
            domain, version = _opset(value)
            opset = version if domain in _DEFAULT_DOMAINS else opset
        elif field == _MODEL_GRAPH:
            for place, described in _messages(value):
                if place in values:
                    name, put = _value(described)
                    values[place][name] = put
    if not opset:
        raise ValueError("it names no opset")
    return OnnxFile(opset=opset, inputs=values[_GRAPH_INPUT], outputs=values[_GRAPH_OUTPUT])


def _refuse_external_data(message: memoryview, kind: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"its messages lie in each other more than {_DEEPEST} deep")
    children = _CHILDREN.get(kind, {})
    for field, value in fields(message):
        if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value)):
            raise ValueError(
                "it keeps tensors in other files (external data), which is refused; save it as "
                "one file"
            )
        if field in children and isinstance(value, memoryview):
            _refuse_external_data(value, children[field], depth + 1)


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    for field, value in fields(message):
        if isinstance(value, memoryview):
            yield field, value


def _opset(message: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for field, value in fields(message):
        if field == 1 and isinstance(value, memoryview):
            domain = _text(value)
        elif field == 2 and isinstance(value, int):
            version = value
    return domain, version


def _value(message: memoryview) -> tuple[str, OnnxValue]:
    """Return name and type of a ValueInfoProto."""
    name, value = "", OnnxValue(0)
    for field, content in _messages(message):
        if field == 1:
            name = _text(content)
        elif field == 2:  # TypeProto, of which 1 is a tensor
            for kind, tensor in _messages(content):
                value = _tensor_type(tensor) if kind == 1 else value
    return name, value


def _tensor_type(message: memoryview) -> OnnxValue:
    data_type, shape = 0, None
    for field, value in fields(message):
        if field == 1 and isinstance(value, int):
            data_type = value
        elif field == 2 and isinstance(value, memoryview):
            shape = tuple(_dimension(dim) for kind, dim in _messages(value) if kind == 1)
    return OnnxValue(data_type, shape)


def _dimension(message: memoryview) -> int | str:
    for field, value in fields(message):
        if field == 1 and isinstance(value, int):
            return value
        if field == 2 and isinstance(value, memoryview):
            return _text(value)
    return ""


def _text(content: memoryview) -> str:
    return bytes(content).decode(errors="replace")
