"""Weights put into an ONNX file without the onnx package, which a device does not have.

Protocol buffers merge: when the bytes of two messages are concatenated, their embedded messages
are merged and their repeated fields joined (Protocol Buffers, "Encoding", section "Last One
Wins"). So a model that holds nothing but initializers, appended to a model file, adds them to its
graph; and an initializer with the name of a graph input gives that input its value (ONNX IR,
section "Graphs").
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from exportloss.runtime.protobuf import embedded, number

__all__ = ["with_initializers"]

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER = 5
_TENSOR_DIMS, _TENSOR_DATA_TYPE, _TENSOR_NAME, _TENSOR_RAW_DATA = 1, 2, 8, 9
_FLOAT = 1  # TensorProto.DataType


def with_initializers(model: bytes, values: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """Return the model with float32 initializers added to its graph.

    Args:
        model: a serialized ModelProto.
        values: name -> tensor.
    """
    initializers = b"".join(
        embedded(_GRAPH_INITIALIZER, _tensor(name, value)) for name, value in values.items()
    )
    return model + embedded(_MODEL_GRAPH, initializers)


def _tensor(name: str, value: npt.NDArray[np.float32]) -> bytes:
    return (
        b"".join(number(_TENSOR_DIMS, size) for size in value.shape)
        + number(_TENSOR_DATA_TYPE, _FLOAT)
        + embedded(_TENSOR_NAME, name.encode())
        + embedded(_TENSOR_RAW_DATA, np.ascontiguousarray(value, "<f4").tobytes())
    )
