"""The detector alone as a graph, for any number of images if only shapes depend on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes
from torch import Tensor, nn

from exportloss.export.aten.builder import shape_of
from exportloss.export.aten.to_onnx import to_onnx

__all__ = ["inference_graph"]

# Numbers of images to trace with: primes, so that no other size equals them.
_PRIMES = (7919, 7907)


def inference_graph(
    function: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    example: dict[str, Tensor],
    *,
    modules: Mapping[str, nn.Module],
) -> ir.Model:
    """Trace a function of `images` and weights to a graph.

    The number of images is a free dimension if it occurs only as the first size of tensors and of
    the results of Reshape, as in YOLOv5. Otherwise it is fixed to that of the example.

    Args:
        function: Computation to trace, from inputs by name to outputs by name.
        example: Example inputs by name; `images` among them.
        modules: Modules that the function calls, by the names for the graph's nodes.
    """

    def write(given: dict[str, Tensor]) -> ir.Model:
        # For predictions, plain convolutions matter more than equal bits for any thread count.
        return to_onnx(function, given, name="inference", modules=modules, repeatable=False)

    free = []
    for images in _PRIMES:
        many = example["images"][:1].expand(images, -1, -1, -1)  # takes no memory
        free.append(_with_free_size(write(example | {"images": many}), images))
    # They differ if anything else depends on the number of images.
    one, other = (ir.to_proto(graph).SerializeToString() for graph in free)
    return free[0] if one == other else write(example)


def _with_free_size(model: ir.Model, images: int) -> ir.Model:
    """Make the first size of tensors free wherever it is the number of images."""
    graph = model.graph
    for node in graph:
        if node.op_type == "Reshape":
            data, sizes = node.inputs
            assert data is not None and sizes is not None and sizes.const_value is not None
            wanted = sizes.const_value.numpy()
            if shape_of(data)[:1] == tuple(wanted[:1]) == (images,):
                kept = np.array([0, *wanted[1:]], np.int64)  # 0: same as in the input
                name = f"shape_{'_'.join(map(str, kept))}"
                if name not in graph.initializers:
                    graph.register_initializer(_constant(name, kept))
                node.replace_input_with(1, graph.initializers[name])
    passes.RemoveUnusedNodesPass()(model)  # removes constants too
    for value in [*graph.inputs, *(value for node in graph for value in node.outputs)]:
        first, *others = shape_of(value) or (0,)
        if first == images:
            value.shape = ir.Shape(["batch", *others])
    return model


def _constant(name: str, array: np.ndarray) -> ir.Value:
    tensor = ir.tensor(array)
    return ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
