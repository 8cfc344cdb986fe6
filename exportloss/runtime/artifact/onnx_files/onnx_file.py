"""Inputs, outputs, opset and metadata of an ONNX file, read without the onnx package.

Files are checked here before an engine opens them. Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

from exportloss.errors import ArtifactError, excerpt
from exportloss.reading import read_bounded
from exportloss.runtime.artifact.limits import MAX_MODEL_BYTES
from exportloss.runtime.artifact.onnx_files.model_checksum import model_is_whole
from exportloss.runtime.artifact.onnx_files.protobuf import fields

__all__ = ["BOOL", "FLOAT", "UINT8", "OnnxFile", "OnnxValue", "parse_onnx", "read_onnx"]

FLOAT, UINT8, BOOL = 1, 2, 9  # TensorProto.DataType
_NAMES = {FLOAT: "float32", UINT8: "uint8", BOOL: "bool"}

_NOTHING = memoryview(b"")
_DEFAULT_DOMAINS = ("", "ai.onnx")
_DEEPEST = 100  # levels of nested messages, as in protocol buffers' own parsers

# Per message, its fields that are messages and may contain tensors.
_CHILDREN: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA = 7, 8, 14
_GRAPH_INPUT, _GRAPH_OUTPUT = 11, 12
_NODE_OPERATOR = 4
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR, _TYPES = 1, (1, 4, 5, 7, 8, 9)  # alternatives, of which the last one counts
_TENSOR_ELEMENT, _TENSOR_SHAPE, _SHAPE_DIMENSION = 1, 2, 1
_LARGEST_INT32 = (1 << 31) - 1
_SIGN = 1 << 63  # of an int64

# A node of this operator may name a file of compiled code, which a provider then opens.
_COMPILED = b"EPContext"


@dataclasses.dataclass(frozen=True)
class OnnxValue:
    """An input or output of a graph.

    Attributes:
        type: TensorProto.DataType, such as `FLOAT`; 0 for other types than tensors.
        shape: Sizes, or names of variable sizes; None if no shape is given.
    """

    type: int
    shape: tuple[int | str, ...] | None = None

    def __str__(self) -> str:
        if not self.type:
            return "not a tensor"
        name = _NAMES.get(self.type, f"type {self.type}")
        return f"{name} of any shape" if self.shape is None else f"{name} {self.shape}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """Properties of an ONNX file.

    Attributes:
        opset: Opset of the `ai.onnx` domain.
        inputs: Inputs of the graph, by name.
        outputs: Outputs of the graph, by name.
        metadata: Metadata of the model.
    """

    opset: int
    inputs: Mapping[str, OnnxValue]
    outputs: Mapping[str, OnnxValue]
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)


def read_onnx(path: Path) -> bytes:
    """Return the content of an ONNX file that is complete and refers to no other file.

    Raises:
        ArtifactError: the file is missing, too large, damaged or not ONNX, or keeps tensors in
            other files.
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
        raise ArtifactError(f"{path} is not an ONNX file that can be run: {error}") from error
    return content


def parse_onnx(content: bytes) -> OnnxFile:
    """Return opset, inputs, outputs and metadata of a serialized model.

    External data (tensors in other files) is refused anywhere in the model: the file chooses its
    path, `../../etc/passwd` included, and no file here needs it. Nodes of code compiled for a
    provider (EPContext), which may also be in another file, are refused as well.

    Repeated fields count as protocol buffers prescribe: the last number or text, messages merged,
    and the last of alternatives (`oneof`).

    Raises:
        ValueError: the content is not a model or is truncated, parts of the model are in other
            files, or two inputs or outputs have the same name.
    """
    model = memoryview(content)
    _refuse_other_files(model, "model", 0)
    opset = 0
    values: dict[int, dict[str, OnnxValue]] = {_GRAPH_INPUT: {}, _GRAPH_OUTPUT: {}}
    metadata: dict[str, str] = {}
    for field, value in _messages(model):
        if field == _MODEL_OPSET:
            domain, version = _opset(value)
            opset = version if domain in _DEFAULT_DOMAINS else opset
        elif field == _MODEL_METADATA:
            entry = dict(_messages(value))
            metadata[_text(entry.get(1, _NOTHING))] = _text(entry.get(2, _NOTHING))
        elif field == _MODEL_GRAPH:
            for place, described in _messages(value):
                if place in values:
                    name, put = _value(described)
                    if name in values[place]:
                        raise ValueError(f"two inputs or outputs are named {excerpt(repr(name))}")
                    values[place][name] = put
    if not opset:
        raise ValueError("it has no opset")
    return OnnxFile(
        opset=opset,
        inputs=values[_GRAPH_INPUT],
        outputs=values[_GRAPH_OUTPUT],
        metadata=metadata,
    )


def _refuse_other_files(message: memoryview, kind: str, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError(f"its messages are nested more than {_DEEPEST} deep")
    children = _CHILDREN.get(kind, {})
    for field, value in fields(message):
        if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value)):
            raise ValueError(
                "it keeps tensors in other files (external data), which is refused; save it as "
                "one file"
            )
        is_operator = kind == "node" and field == _NODE_OPERATOR
        if is_operator and isinstance(value, memoryview) and bytes(value) == _COMPILED:
            raise ValueError(
                "it holds code compiled for a device (EPContext), which may be in other files and "
                "is refused; use the model that it was compiled from"
            )
        if field in children and isinstance(value, memoryview):
            _refuse_other_files(value, children[field], depth + 1)


def _messages(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    for field, value in fields(message):
        if isinstance(value, memoryview):
            yield field, value


def _merged(message: memoryview, wanted: int) -> memoryview | None:
    """Return an embedded message with its repetitions merged; None if it is absent.

    Messages merge when their bytes are joined.
    """
    parts = [value for field, value in _messages(message) if field == wanted]
    return memoryview(b"".join(parts)) if parts else None


def _opset(message: memoryview) -> tuple[str, int]:
    domain, version = "", 0
    for field, value in fields(message):
        if field == 1 and isinstance(value, memoryview):
            domain = _text(value)
        elif field == 2 and isinstance(value, int):
            version = _signed(value)
    return domain, version


def _value(message: memoryview) -> tuple[str, OnnxValue]:
    """Return name and type of a ValueInfoProto."""
    name = ""
    for field, content in _messages(message):
        if field == _VALUE_NAME:
            name = _text(content)
    described = _merged(message, _VALUE_TYPE)
    tensor = None if described is None else _tensor_type(described)
    return name, tensor or OnnxValue(0)


def _tensor_type(message: memoryview) -> OnnxValue | None:
    """Return the tensor type of a TypeProto; None for other types."""
    parts: list[memoryview] = []
    last = None
    for kind, content in _messages(message):
        if kind in _TYPES:
            parts = [*parts, content] if kind == last else [content]
            last = kind
    if last != _TYPE_TENSOR:
        return None
    tensor, element = memoryview(b"".join(parts)), 0
    for field, value in fields(tensor):
        if field == _TENSOR_ELEMENT and isinstance(value, int):
            element = value
    if element > _LARGEST_INT32:
        raise ValueError(f"{element} is not an element type of tensors")
    shape = _merged(tensor, _TENSOR_SHAPE)
    if shape is None:
        return OnnxValue(element)
    sides = (_dimension(side) for kind, side in _messages(shape) if kind == _SHAPE_DIMENSION)
    return OnnxValue(element, tuple(sides))


def _dimension(message: memoryview) -> int | str:
    size: int | str = ""
    for field, value in fields(message):
        if field == 1 and isinstance(value, int):
            size = _signed(value)
        elif field == 2 and isinstance(value, memoryview):
            size = _text(value)
    return size


def _signed(value: int) -> int:
    """Return a varint as a signed 64-bit integer."""
    return value - 2 * _SIGN if value >= _SIGN else value


def _text(content: memoryview) -> str:
    try:
        return bytes(content).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"a name in it is not UTF-8: {error}") from error
