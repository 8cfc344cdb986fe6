"""Attributes, shapes, element types and constants of a node."""

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


def type_name(value: ir.Value | None) -> str | None:
    """Return the element type of a tensor as in the tables, such as `float32`; None if unknown."""
    if value is None or not isinstance(value.type, ir.TensorType):
        return None
    name = value.type.dtype.name.lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Return the value of an attribute, or the given default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def input_at(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input; None if it is not given."""
    return node.inputs[index] if index < len(node.inputs) else None


def shape_at(node: ir.Node, index: int) -> tuple[int, ...] | None:
    """Return the static shape of an input; None if unknown or dynamic."""
    value = input_at(node, index)
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return value.shape.numpy()


def rank_of(node: ir.Node) -> int | None:
    """Return the number of dimensions of the first input; None if unknown."""
    value = input_at(node, 0)
    return None if value is None or value.shape is None else len(value.shape)


def is_constant(value: ir.Value) -> bool:
    """Return whether a value is an initializer or the output of a Constant node."""
    producer = value.producer()
    made = producer is not None and producer.op_type == "Constant"
    return made or value.const_value is not None


def array_of(value: ir.Value | None) -> NDArray[Any] | None:
    """Return the array of a constant; None for other values."""
    if value is None:
        return None
    producer = value.producer()
    if value.const_value is None and producer is not None and producer.op_type == "Constant":
        tensor = producer.attributes.get("value")
        return None if tensor is None else tensor.as_tensor().numpy()
    return None if value.const_value is None else value.const_value.numpy()
