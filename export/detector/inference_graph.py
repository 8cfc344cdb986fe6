"""The detector alone as a graph, for any number of images where no more than shapes needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as passes
from torch import Tensor, nn

from exportloss.export.aten.builder import shape_of
from exportloss.export.aten.to_onnx import to_onnx

__all__ = ["inference_graph"]

# Numbers of images to trace with: primes that no other size is.
_PRIMES = (7919, 7907)


def inference_graph(
    function: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    example: dict[str, Tensor],
    *,
    modules: Mapping[str, nn.Module],
) -> ir.Model:
    """Write a function of `images` and weights as a graph.

    The number of images is free where it is nothing but the first size of tensors and of what
    Reshape makes of them, as in YOLOv5. Elsewhere it is that of the example.
    """

    def write(given: dict[str, Tensor]) -> ir.Model:
        # Predictions rather have plain convolutions than the same bits for any number of threads.
        return to_onnx(function, given, name="inference", modules=modules, repeatable=False)

    free = []
    for images in _PRIMES:
        many = example["images"][:1].expand(images, -1, -1, -1)  # takes no memory
        free.append(_with_free_size(write(example | {"images": many}), images))
    # What hangs on the number in any other way makes them differ.
    one, other = (ir.to_proto(graph).SerializeToString() for graph in free)
    return free[0] if one == other else write(example)


def _with_free_size(model: ir.Model, images: int) -> ir.Model:
    """Free the first size of tensors where it is the number of images, and Reshape keeps it."""
    graph = model.graph
    for node in graph:
        if node.op_type == "Reshape":
            data, sizes = node.inputs
            assert data is not None and sizes is not None and sizes.const_value is not None
            wanted = sizes.const_value.numpy()
            if shape_of(data)[:1] == tuple(wanted[:1]) == (images,):
                kept = np.array([0, *wanted[1:]], np.int64)  # 0: as it comes in
                name = f"shape_{'_'.join(map(str, kept))}"
                if name not in graph.initializers:
                    graph.register_initializer(_constant(name, kept))
                node.replace_input_with(1, graph.initializers[name])
    passes.RemoveUnusedNodesPass()(model)  # and constants
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
