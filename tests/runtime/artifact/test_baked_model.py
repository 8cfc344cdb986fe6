"""Initializers put into a file without the onnx package, read back with it."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper, numpy_helper

from exportloss.runtime.artifact.onnx_files.baked_model import with_initializers


def make_model() -> onnx.ModelProto:
    """y = x * scale + shift, where `shift` is an initializer already."""
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "scale"], ["scaled"]),
            helper.make_node("Add", ["scaled", "shift"], ["y"]),
        ],
        "affine",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [3]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, [3]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [numpy_helper.from_array(np.ones(3, np.float32), "shift")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, {"about": "text"})
    return model


tensors = arrays(
    np.float32,
    array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=9),
    elements=st.floats(width=32, allow_nan=False),
)


@given(st.dictionaries(st.text(min_size=1, max_size=200), tensors, max_size=3))
def test_the_onnx_package_reads_the_same_model_and_tensors(values):
    model = make_model()
    read = onnx.load_from_string(with_initializers(model.SerializeToString(), values))
    added = read.graph.initializer[1:]
    assert [tensor.name for tensor in added] == list(values)
    for tensor in added:
        got = numpy_helper.to_array(tensor)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, values[tensor.name], strict=True)
    del read.graph.initializer[1:]
    assert read == model


@pytest.mark.parametrize("size", [0, 31, 32, 4095, 4096, 600_000])
def test_lengths_of_every_width(size):
    """The lengths take 1 to 4 bytes each."""
    value = np.arange(size, dtype=np.float32)
    read = onnx.load_from_string(with_initializers(make_model().SerializeToString(), {"w": value}))
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.initializer[1]), value)


def test_an_input_becomes_a_weight():
    scale = np.asarray([1, 2, 3], np.float32)
    model = with_initializers(make_model().SerializeToString(), {"scale": scale})
    onnx.checker.check_model(onnx.load_from_string(model), full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == ["x"]
    (y,) = session.run(["y"], {"x": np.full(3, 10, np.float32)})
    np.testing.assert_array_equal(y, scale * 10 + 1)


def test_memory_order_does_not_matter():
    value = np.arange(6, dtype=np.float32).reshape(2, 3).T  # (3, 2), not contiguous
    read = onnx.load_from_string(with_initializers(make_model().SerializeToString(), {"w": value}))
    np.testing.assert_array_equal(numpy_helper.to_array(read.graph.initializer[1]), value)
