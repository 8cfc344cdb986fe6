"""Lookup of a node's kernel in a provider's table, by the types of its ONNX parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir as ir

from exportloss.export.providers.node_facts import type_name
from exportloss.export.providers.tables import ANY_FLOAT, Kernel, ProviderTable

__all__ = ["STANDARD_DOMAINS", "missing_types", "schema_of"]

STANDARD_DOMAINS = ("", "ai.onnx")


def schema_of(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    """Return the ONNX schema of a node's operator; None if ONNX does not define the operator."""
    if node.domain not in STANDARD_DOMAINS:
        return None
    try:
        return onnx.defs.get_schema(node.op_type, max_inclusive_version=opset)
    except onnx.defs.SchemaError:
        return None


def missing_types(node: ir.Node, table: ProviderTable, opset: int) -> tuple[str, ...] | None:
    """Return the element types that keep the closest kernel from running a node.

    Unknown types count as supported.

    Returns:
        Element types, empty if a kernel supports them all; None if there is no kernel for this
        version of the operator.
    """
    schema = schema_of(node, opset)
    if schema is None:
        return None
    misses = [
        _not_taken(node, schema, kernel)
        for kernel in table.kernels.get(node.op_type, ())
        if kernel.versions[0] <= schema.since_version <= kernel.versions[1]
    ]
    return min(misses, key=len, default=None)


def _not_taken(node: ir.Node, schema: onnx.defs.OpSchema, kernel: Kernel) -> tuple[str, ...]:
    wrong: dict[str, None] = {}
    for variable, parameter, type_ in _typed(node, schema):
        allowed = [kernel.types.get(variable), kernel.types.get(parameter)]
        if _may_be_float(schema, variable):
            allowed.append(kernel.types.get(ANY_FLOAT))
        if any(types is not None and type_ not in types for types in allowed):
            wrong[type_] = None
    return tuple(wrong)


def _typed(node: ir.Node, schema: onnx.defs.OpSchema) -> Iterator[tuple[str, str, str]]:
    """Yield type variable, parameter and element type of each input and output of known type."""
    sides: list[tuple[Any, Any]] = [(node.inputs, schema.inputs), (node.outputs, schema.outputs)]
    for values, parameters in sides:
        for index, value in enumerate(values if parameters else ()):
            parameter = parameters[min(index, len(parameters) - 1)]  # the last may be variadic
            type_ = type_name(value)
            if type_ is not None and parameter.is_homogeneous:
                yield parameter.type_str, parameter.name, type_


def _may_be_float(schema: onnx.defs.OpSchema, variable: str) -> bool:
    return any(
        "tensor(float)" in constraint.allowed_type_strs
        for constraint in schema.type_constraints
        if constraint.type_param_str == variable
    )
