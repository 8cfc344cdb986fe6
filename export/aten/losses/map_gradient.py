"""`exportloss.loss.map_gradient`, the gradient of a map that was read sparsely, in ONNX.

Every provider can pad the objectness and add the rows to it; ONNX Runtime then writes a map that is
an output of the graph twice and reads it once. Only its CPU provider has an operator that scatters
into zeros of its own, MaxUnpool, which writes the map once. MaxUnpool does not add, so rows of the
same box are summed beforehand, and each is written with the sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch

from exportloss.export.aten.nodes import dtype_of, shape_of
from exportloss.export.aten.registry import Translator, translates
from exportloss.loss.map_gradient import OBJECTNESS

__all__: list[str] = []


@translates(torch.ops.exportloss.map_gradient.default)
def _map_gradient(
    t: Translator,
    objectness: ir.Value,
    box: ir.Value,
    rows: ir.Value,
    shape: Sequence[int],
    *,
    add: bool = True,
) -> ir.Value:
    values = math.prod(shape_of(rows)) + shape_of(objectness)[0]
    if t.provider == "cpu" and dtype_of(rows) == ir.DataType.FLOAT and values <= math.prod(shape):
        sums = _sums_of_same_box(t, box, rows, shape_of(objectness)[0]) if add else rows
        return _in_one_pass(t, objectness, box, sums, shape)
    if add:
        return _padded(t, objectness, box, rows, shape, reduction="add")
    rows = _with_objectness(t, objectness, box, rows)
    return _padded(t, objectness, box, rows, shape, reduction="none")


def _with_objectness(
    t: Translator, objectness: ir.Value, box: ir.Value, rows: ir.Value
) -> ir.Value:
    """Add the objectness gradient of its box to each row."""
    count, outputs = shape_of(rows)
    column = t.reshape(t.op("Gather", objectness, box, shape=(count,)), (count, 1))
    return t.add(rows, t.pad(column, {1: (OBJECTNESS, outputs - OBJECTNESS - 1)}))


def _padded(
    t: Translator,
    objectness: ir.Value,
    box: ir.Value,
    rows: ir.Value,
    shape: Sequence[int],
    *,
    reduction: Literal["add", "none"],
) -> ir.Value:
    count, outputs = shape_of(rows)
    after, boxes = outputs - OBJECTNESS - 1, shape_of(objectness)[0]
    if len(shape) == 5:
        data = t.pad(t.reshape(objectness, (boxes, 1)), {1: (OBJECTNESS, after)})
        index = t.expand(t.reshape(box, (count, 1)), (count, outputs))
    else:
        cells = shape[2] * shape[3]
        planes = t.reshape(objectness, (boxes // cells, 1, cells))
        data = t.reshape(t.pad(planes, {1: (OBJECTNESS, after)}), (math.prod(shape),))
        index = t.reshape(_elements(t, box, outputs, shape), (count * outputs,))
        rows = t.reshape(rows, (count * outputs,))
    places = shape_of(data)[0]
    if reduction == "none":  # TensorRT accepts no more indices than elements
        data = t.pad(data, {0: (0, max(0, shape_of(index)[0] - places))})
    written = t.op(
        "ScatterElements", data, index, rows, shape=shape_of(data), axis=0, reduction=reduction
    )
    return t.reshape(t.slice(written, 0, 0, places), shape)


def _in_one_pass(
    t: Translator, objectness: ir.Value, box: ir.Value, rows: ir.Value, shape: Sequence[int]
) -> ir.Value:
    (boxes,), (count, outputs) = shape_of(objectness), shape_of(rows)
    sums = _with_objectness(t, objectness, box, rows)
    # MaxUnpool takes the values in a tensor with the first two dimensions of the map and no other
    # dimension longer. So the others are shortened to fit all values, and the rest repeats one.
    needed = boxes + count * outputs
    values_shape = _shortened(shape, needed)
    fill = math.prod(values_shape) - needed
    where_objectness = _objectness_elements(t, outputs, shape)

    def joined(of_boxes: ir.Value, of_rows: ir.Value) -> ir.Value:
        again = [t.expand(t.slice(of_boxes, 0, 0, 1), (fill,))] if fill else []
        every = t.concat([*again, of_boxes, t.reshape(of_rows, (count * outputs,))], 0)
        return t.reshape(every, values_shape)

    return t.op(
        "MaxUnpool",
        joined(objectness, sums),
        joined(where_objectness, _elements(t, box, outputs, shape)),
        t.integers(shape),
        shape=shape,
        kernel_shape=[1] * (len(shape) - 2),
    )


def _shortened(shape: Sequence[int], needed: int) -> list[int]:
    """Return the shape with its dimensions after the second as short as `needed` elements allow."""
    sizes = list(shape)
    for axis in range(len(shape) - 1, 1, -1):
        others = math.prod(sizes) // sizes[axis]
        sizes[axis] = math.ceil(needed / others)
    return sizes


def _sums_of_same_box(t: Translator, box: ir.Value, rows: ir.Value, boxes: int) -> ir.Value:
    """For each row, return the sum over all rows of the same box."""
    count, outputs = shape_of(rows)
    last = t.op(
        "ScatterElements",
        t.filled(0, (boxes,), ir.DataType.INT64),
        box,
        t.constant(np.arange(count)),
        shape=(boxes,),
        axis=0,
        reduction="max",
    )
    place = t.op("Gather", last, box, shape=(count,))
    sums = t.op(
        "ScatterElements",
        t.filled(0.0, (count, outputs), dtype_of(rows)),
        t.expand(t.reshape(place, (count, 1)), (count, outputs)),
        rows,
        shape=(count, outputs),
        axis=0,
        reduction="add",
    )
    return t.op("Gather", sums, place, shape=(count, outputs), axis=0)


def _elements(t: Translator, box: ir.Value, outputs: int, shape: Sequence[int]) -> ir.Value:
    """Return the index in the flat map of each element of the boxes.  # (K, no)"""
    column = t.reshape(box, (shape_of(box)[0], 1))
    if len(shape) == 5:
        return t.add(t.mul(column, outputs), t.constant(np.arange(outputs)))
    cells = shape[2] * shape[3]
    plane = t.div(column, cells)
    first = t.add(column, t.mul(plane, (outputs - 1) * cells))
    return t.add(first, t.constant(np.arange(outputs) * cells))


def _objectness_elements(t: Translator, outputs: int, shape: Sequence[int]) -> ir.Value:
    """Return the index in the flat map of the objectness of each box.  # (N,)"""
    total = math.prod(shape)
    step, columns = (outputs, shape[3]) if len(shape) == 5 else (1, shape[2] * shape[3])
    # Two short vectors take less space in the file than a long one.
    rows = np.arange(0, total, outputs * columns)[:, None]
    column = np.arange(columns) * step + OBJECTNESS * (1 if len(shape) == 5 else columns)
    return t.reshape(t.add(t.constant(rows), t.constant(column)), (total // outputs,))
