"""Detectors in ONNX that are made to do harm when they are run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["HOSTILE", "graph_of"]

SHAPE = (1, 3, 32, 32)
FLOAT = TensorProto.FLOAT


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, Any] | None = None,
    *,
    shape: Sequence[int | str] = SHAPE,
    output: Sequence[int | str | None] = (1, None, 7),
    kind: int = FLOAT,
    functions: Sequence[onnx.FunctionProto] = (),
) -> bytes:
    """A model with `images` in and `output0` out."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("images", FLOAT, shape)],
        [helper.make_tensor_value_info("output0", kind, output)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets, functions=functions)
    return model.SerializeToString()


node = helper.make_node
_TO_ROWS = [
    node("ReduceMean", ["images"], ["mean"], keepdims=0),
    node("Mul", ["mean", "zeros"], ["output0"]),
]
_ZEROS = {"zeros": np.zeros((1, 4, 7), np.float32)}


def _division() -> bytes:
    """An integer divided by zero: a signal, where it is not an error."""
    nodes = [
        node("Cast", ["images"], ["whole"], to=TensorProto.INT64),
        node("ReduceMax", ["whole"], ["most"], keepdims=0),
        node("Sub", ["most", "most"], ["none"]),
        node("Div", ["most", "none"], ["endless"]),
        node("Cast", ["endless"], ["number"], to=FLOAT),
        node("Mul", ["number", "zeros"], ["output0"]),
    ]
    return graph_of(nodes, _ZEROS)


def _recursion() -> bytes:
    opset = [helper.make_opsetid("own", 1)]
    calls = [node("Again", ["x"], ["y"], domain="own")]
    function = helper.make_function("own", "Again", ["x"], ["y"], calls, opset)
    return graph_of([node("Again", ["images"], ["output0"], domain="own")], functions=[function])


def _loop() -> bytes:
    """Without an end."""
    body = helper.make_graph(
        [node("Identity", ["c"], ["c_out"]), node("Add", ["v", "v"], ["v_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("c", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("v", FLOAT, (1, 4, 7)),
        ],
        [
            helper.make_tensor_value_info("c_out", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("v_out", FLOAT, (1, 4, 7)),
        ],
    )
    nodes = [*_TO_ROWS[:1], node("Mul", ["mean", "zeros"], ["start"])]
    nodes.append(node("Loop", ["times", "go", "start"], ["output0"], body=body))
    times = np.array((1 << 63) - 1)
    return graph_of(nodes, _ZEROS | {"times": times, "go": np.array(True)})


def _memory(gibibytes: int) -> bytes:
    """A tensor of so much, which is written to."""
    sides = np.array([gibibytes, 1 << 14, 1 << 14])
    nodes = [
        node(
            "ConstantOfShape", ["sides"], ["much"], value=numpy_helper.from_array(np.ones(1, "f4"))
        ),
        node("ReduceMean", ["images"], ["mean"], keepdims=0),
        node("Mul", ["much", "mean"], ["more"]),
        node("ReduceMean", ["more"], ["one"], keepdims=0),
        node("Mul", ["one", "zeros"], ["output0"]),
    ]
    return graph_of(nodes, _ZEROS | {"sides": sides})


def _text() -> bytes:
    nodes = [*_TO_ROWS[:1], node("Mul", ["mean", "zeros"], ["rows"])]
    nodes.append(node("Cast", ["rows"], ["output0"], to=TensorProto.STRING))
    return graph_of(nodes, _ZEROS, kind=TensorProto.STRING)


def _rows(zeros: tuple[int, ...], **options: Any) -> bytes:
    """A model whose output is zeros of this shape, and says nothing of it."""
    return graph_of(_TO_ROWS, {"zeros": np.zeros(zeros, np.float32)}, **options)


def _grow() -> bytes:
    """Rows that grow with the brightness of the image."""
    nodes = [
        node("ReduceSum", ["images"], ["sum"], keepdims=0),
        node("Mul", ["sum", "times"], ["product"]),
        node("Cast", ["product"], ["count"], to=TensorProto.INT64),
        node("Reshape", ["count", "flat"], ["one"]),
        node("Concat", ["first", "one", "last"], ["shape"], axis=0),
        node("ConstantOfShape", ["shape"], ["output0"]),
    ]
    constants = {"times": np.array(1e6, np.float32), "flat": np.array([1])}
    return graph_of(nodes, constants | {"first": np.array([1]), "last": np.array([7])})


HOSTILE: dict[str, bytes] = {
    "division by zero": _division(),
    "a function that calls itself": _recursion(),
    "a loop without end": _loop(),
    "8 GiB": _memory(8),
    "1 TiB": _memory(1 << 10),
    "text": _text(),
    "integers": graph_of(
        [node("Cast", ["images"], ["output0"], to=TensorProto.INT64)], kind=TensorProto.INT64
    ),
    "rows without end": _grow(),
    "one row of one column": _rows((1, 1, 1), output=("a", "b", "c")),
    "rows of five columns": _rows((1, 2, 5), output=("a", "b", "c")),
    "rows for another number of images": _rows((3, 2, 7), output=("a", "b", "c")),
    "two dimensions": _rows((2, 7), output=("a", "b")),
    "no dimension": graph_of(_TO_ROWS, {"zeros": np.float32(0)}, output=()),
    "grey": _rows((1, 4, 7), shape=(1, 1, 32, 32)),
    "four channels": _rows((1, 4, 7), shape=(1, 4, 32, 32)),
    "no side": _rows((1, 4, 7), shape=(1, 3, 0, 32)),
    "a large side": _rows((1, 4, 7), shape=(1, 3, 1 << 20, 1 << 20)),
    "a large batch": _rows((1, 4, 7), shape=(1 << 20, 3, 32, 32)),
    "a side beyond numbers": _rows((1, 4, 7), shape=(1, 3, (1 << 63) - 1, 32)),
    "an unknown operator": graph_of([node("NoSuch", ["images"], ["output0"])]),
}
