"""What a node of a graph tells about its attributes and inputs."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

__all__ = [
    "array_of",
    "attribute",
    "input_at",
    "is_constant",
    "rank_of",
    "shape_at",
    "type_name",
]

Array = NDArray[Any]


def type_name(value: ir.Value | None) -> str | None:
    """Element type of a tensor as the tables have it, such as `float32`; None if not known."""
    if value is None or not isinstance(value.type, ir.TensorType):
        return None
    name = value.type.dtype.name.lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Value of an attribute, or the operator's default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """An input, None if it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def shape_at(node: ir.Node, index: int) -> tuple[int, ...] | None:
    """Static shape of an input, None if not known."""
    value = input_at(node, index)
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return value.shape.numpy()


def rank_of(node: ir.Node) -> int | None:
    """Number of dimensions of the first input, None if not known."""
    value = input_at(node, 0)
    return None if value is None or value.shape is None else len(value.shape)


def is_constant(value: ir.Value) -> bool:
    """Whether a value is an initializer or comes from a node Constant."""
    producer = value.producer()
    made = producer is not None and producer.op_type == "Constant"
    return made or value.const_value is not None


def array_of(value: ir.Value | None) -> Array | None:
    """What a constant holds, None for other values."""
    if value is None:
        return None
    producer = value.producer()
    if value.const_value is None and producer is not None and producer.op_type == "Constant":
        tensor = producer.attributes.get("value")
        return None if tensor is None else tensor.as_tensor().numpy()
    return None if value.const_value is None else value.const_value.numpy()
