"""Weights added to an ONNX file without the onnx package, which a device does not have.

Protocol buffers merge: when the bytes of two messages are concatenated, their embedded messages
are merged and their repeated fields joined (Protocol Buffers, "Encoding", section "Last One
Wins"). So appending a model that holds only initializers to a model file adds them to its graph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import numpy as np
import numpy.typing as npt

from exportloss.runtime.artifact.onnx_files.protobuf import embedded, fields, number

__all__ = ["with_initializers"]

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT = 5, 11
_VALUE_NAME = 1
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_FLOAT = 1  # TensorProto.DataType


def with_initializers(model: bytes, values: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """Return the model with float32 initializers added to its graph.

    Inputs of those names are removed: runtimes neither fold nor repack for their kernels an
    initializer that the caller may replace.

    Args:
        model: Serialized ModelProto.
        values: Tensors by name.
    """
    initializers = b"".join(
        embedded(_GRAPH_INITIALIZER, _tensor(name, value)) for name, value in values.items()
    )
    kept = _rewritten(
        memoryview(model),
        lambda field, value: (
            _without_inputs(value, values.keys()) if field == _MODEL_GRAPH else bytes(value)
        ),
    )
    return kept + embedded(_MODEL_GRAPH, initializers)


def _without_inputs(graph: memoryview, names: Collection[str]) -> bytes:
    def keep(field: int, value: memoryview) -> bytes | None:
        is_one = field == _GRAPH_INPUT and _name(value) in names
        return None if is_one else bytes(value)

    return _rewritten(graph, keep)


def _rewritten(message: memoryview, rewrite: Callable[[int, memoryview], bytes | None]) -> bytes:
    """Return a message with rewritten fields, without those for which `rewrite` returns None.

    Fields of fixed size, which the messages here do not have, are dropped.
    """
    parts = []
    for field, value in fields(message):
        if isinstance(value, int):
            parts.append(number(field, value))
        elif value is not None and (content := rewrite(field, value)) is not None:
            parts.append(embedded(field, content))
    return b"".join(parts)


def _name(value_info: memoryview) -> str:
    names = [value for field, value in fields(value_info) if field == _VALUE_NAME]
    return "".join(bytes(name).decode() for name in names if isinstance(name, memoryview))


def _tensor(name: str, value: npt.NDArray[np.float32]) -> bytes:
    return (
        b"".join(number(_TENSOR_DIMS, size) for size in value.shape)
        + number(_TENSOR_DATA_TYPE, _FLOAT)
        + embedded(_TENSOR_NAME, name.encode())
        + embedded(_TENSOR_RAW_DATA, np.ascontiguousarray(value, "<f4").tobytes())
    )
