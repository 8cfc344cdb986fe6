"""Build ONNX graphs from reshapes, slices, reductions and products with static shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exportloss.export.aten import gpu_layout
from exportloss.export.aten.nodes import NodeWriter, Scalar, dtype_of, shape_of

__all__ = ["TERMS_AT_A_TIME", "Builder", "shape_of"]

# ONNX Runtime's matrix product sums this many terms at a time, but more if a thread has 64 columns
# or fewer. With two threads, one of them has that few if the result has at most 144 columns.
TERMS_AT_A_TIME = 128
_FEW_COLUMNS = 144


# WebGPU guarantees a kernel only 8 buffers, and a Split needs one for its input and one per output.
_MOST_PARTS = 7
_SMALL = 1 << 23  # elements: of more, parts are cut one by one, when they are needed


def kept_shape(x: ir.Value, axes: Sequence[int]) -> list[int]:
    """Return the shape of x reduced over axes, which remain with size 1."""
    return [1 if axis in axes else size for axis, size in enumerate(shape_of(x))]


class Builder(NodeWriter):
    """A writer of nodes that also reshapes, joins, cuts, reduces and multiplies."""

    def filled(self, value: Scalar, shape: Sequence[int], dtype: ir.DataType) -> ir.Value:
        """Return a tensor of one repeated value, of which the file stores a single element."""
        return self.expand(self.scalar(value, dtype), shape)

    # Shapes

    def reshape(self, x: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Return x in another shape, with every dimension given."""
        if shape_of(x) == tuple(shape):
            return x
        if (array := self.array_of(x)) is not None and array.size <= 4096:
            return self.constant(array.reshape(shape))
        source = x.producer()
        if source is not None and source.op_type == "Reshape":  # one node suffices
            assert source.inputs[0] is not None
            return self.reshape(source.inputs[0], shape)
        return self.op("Reshape", x, self.integers(shape), shape=shape)

    def transpose(self, x: ir.Value, order: Sequence[int]) -> ir.Value:
        """Return x with its dimensions in another order."""
        if list(order) == list(range(len(order))):
            return x
        shape = [shape_of(x)[axis] for axis in order]
        kept = [axis for axis in order if shape_of(x)[axis] != 1]
        if kept == sorted(kept):  # nothing moves in memory
            return self.reshape(x, shape)
        return self.op("Transpose", x, shape=shape, perm=order)

    def expand(self, x: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Return x repeated along dimensions of size 1 or new leading ones."""
        if shape_of(x) == tuple(shape):
            return x
        return self.op("Expand", x, self.integers(shape), shape=shape)

    def slice(self, x: ir.Value, axis: int, start: int, stop: int, step: int = 1) -> ir.Value:
        """Return x[start:stop:step] along an axis, where 0 <= start < stop <= size."""
        size = shape_of(x)[axis]
        if (start, stop, step) == (0, size, 1):
            return x
        shape = list(shape_of(x))
        shape[axis] = math.ceil((stop - start) / step)
        bounds = (self.bounds([v]) for v in (start, stop, axis, step))
        return self.op("Slice", x, *bounds, shape=shape)

    def bounds(self, values: Sequence[int]) -> ir.Value:
        """Return a vector of integers, the form in which Slice takes bounds, axes and steps.

        The type is int32 for a GPU: ONNX Runtime merges slices with int64 bounds into one Split,
        and CUDA's Split needs a table, see `exportloss.export.aten.gpu_layout`.
        """
        return self.constant(np.asarray(values, np.int32 if self.for_gpu else np.int64))

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """Return the values joined along an axis."""
        if len(values) == 1:
            return values[0]
        shape = list(shape_of(values[0]))
        sizes = [shape_of(value)[axis] for value in values]
        shape[axis] = sum(sizes)
        is_float = dtype_of(values[0]) == ir.DataType.FLOAT
        if self.for_gpu and is_float and gpu_layout.needs_table(sizes):
            return gpu_layout.join(self, values, sizes, axis)
        return self.op("Concat", *values, shape=shape, axis=axis)

    def split(self, x: ir.Value, sizes: Sequence[int], axis: int) -> tuple[ir.Value, ...]:
        """Return x cut along an axis into parts of the given sizes, none of them 0."""
        if len(sizes) == 1:
            return (x,)
        if self.for_gpu and gpu_layout.needs_table(sizes):
            return gpu_layout.cut(self, x, sizes, axis)
        is_one_node = len(sizes) <= _MOST_PARTS or (
            self.provider == "cpu" and math.prod(shape_of(x)) <= _SMALL
        )
        if not is_one_node:
            ends = np.cumsum(sizes).tolist()
            places = zip(ends, sizes, strict=True)
            return tuple(self.slice(x, axis, end - size, end) for end, size in places)
        shapes = [[size if i == axis else d for i, d in enumerate(shape_of(x))] for size in sizes]
        return self.ops("Split", (x, self.integers(sizes)), shapes, dtype_of(x), axis=axis)

    def pad(self, x: ir.Value, pads: dict[int, tuple[int, int]], value: float = 0.0) -> ir.Value:
        """Return x with `pads[axis]` elements added before and after it.

        A negative number removes elements. That is written as a Slice, because not every runtime
        accepts negative pads.
        """
        for axis, (before, after) in pads.items():
            size = shape_of(x)[axis]
            x = self.slice(x, axis, max(0, -before), size - max(0, -after))
        grown = {axis: (max(0, a), max(0, b)) for axis, (a, b) in pads.items()}
        grown = {axis: pad for axis, pad in grown.items() if any(pad)}
        if not grown:
            return x
        rank = len(shape_of(x))
        ends = [[grown.get(axis, (0, 0))[side] for axis in range(rank)] for side in (0, 1)]
        shape = [sum(sizes) for sizes in zip(shape_of(x), *ends, strict=True)]
        fill = self.scalar(value, dtype_of(x))
        return self.op("Pad", x, self.integers(ends[0] + ends[1]), fill, shape=shape)

    def spread(self, x: ir.Value, axis: int, step: int) -> ir.Value:
        """Return x with step - 1 zeros between its elements along an axis."""
        if step == 1:
            return x
        shape = shape_of(x)
        apart = self.reshape(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
        padded = self.pad(apart, {axis + 1: (0, step - 1)})
        joined = self.reshape(padded, (*shape[:axis], shape[axis] * step, *shape[axis + 1 :]))
        return self.slice(joined, axis, 0, (shape[axis] - 1) * step + 1)

    # Reductions and products

    def reduce(
        self, op_type: str, x: ir.Value, axes: Sequence[int], *, keep: bool = False
    ) -> ir.Value:
        """Return x reduced over non-negative axes, which `keep` leaves with size 1."""
        if not axes:
            return x
        if op_type in ("ReduceSum", "ReduceMean"):
            if self.for_gpu:
                return gpu_layout.reduce(self, op_type, x, axes, keep=keep)
            last = len(shape_of(x)) - 1
            is_over_maps = last > 1 and list(axes) == [0, *range(2, last + 1)]
            if is_over_maps and self.forms.sums == "whole":
                return self.reduce_at_once(op_type, x, axes, keep=keep)
            if is_over_maps and self.forms.sums == "maps":
                by_image = self.reduce_at_once(op_type, x, axes[1:], keep=False)  # (B, C)
                total = self.reduce_at_once(op_type, by_image, [0], keep=False)
                return self.reshape(total, kept_shape(x, axes)) if keep else total
            if last in axes and len(axes) > 1:
                # A CPU sums one element after the other; by rows, less precision is lost.
                x = self.reduce_at_once(op_type, x, [last], keep=True)
        return self.reduce_at_once(op_type, x, axes, keep=keep)

    def reduce_at_once(
        self, op_type: str, x: ir.Value, axes: Sequence[int], *, keep: bool
    ) -> ir.Value:
        """Return x reduced by a single node."""
        shape = [size for i, size in enumerate(shape_of(x)) if i not in axes]
        shape = kept_shape(x, axes) if keep else shape
        return self.op(op_type, x, self.integers(axes), shape=shape, keepdims=int(keep))

    def depends_on_threads(self, terms: int, columns: int) -> bool:
        """Return whether this product's rounding could depend on the thread count.

        ONNX Runtime splits the longer side of the result across threads. Splitting the rows never
        changes the rounding; splitting the columns does if there are many terms and few columns.
        Always False unless the graph is to be repeatable.
        """
        return self.repeatable and terms > TERMS_AT_A_TIME and columns <= _FEW_COLUMNS

    def swap(self, x: ir.Value) -> ir.Value:
        """Return x with its last two dimensions swapped."""
        *before, row, column = range(len(shape_of(x)))
        return self.transpose(x, [*before, column, row])

    def matmul(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Return the matrix product over the last two dimensions; the others broadcast.

        Both operands have at least two dimensions.
        """
        (rows, terms), columns = shape_of(x)[-2:], shape_of(y)[-1]
        if rows < columns and self.depends_on_threads(terms, columns):
            return self.swap(self.matmul(self.swap(y), self.swap(x)))
        batch = np.broadcast_shapes(shape_of(x)[:-2], shape_of(y)[:-2])
        return self.op("MatMul", x, y, shape=(*batch, shape_of(x)[-2], shape_of(y)[-1]))
