"""Write an ONNX graph of standard operators, every value with its type and static shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exportloss.export.aten import gpu_layout
from exportloss.runtime.artifact.manifest import LossProvider

__all__ = ["Builder", "Operand", "Scalar", "dtype_of", "shape_of"]

Scalar = bool | int | float
Operand = ir.Value | Scalar
Array = NDArray[Any]


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape of a value."""
    assert value.shape is not None
    return value.shape.numpy()


def dtype_of(value: ir.Value) -> ir.DataType:
    """The element type of a value."""
    assert value.dtype is not None
    return value.dtype


# ONNX Runtime's matrix product adds up so many terms at a time, and more of them where a thread has
# 64 columns or fewer; of up to 144 columns, one of two threads has.
_TERMS_AT_A_TIME = 128
_FEW_COLUMNS = 144


# A WebGPU adapter binds 8 buffers to a kernel, and some no more: a Split's input and its outputs.
_MOST_PARTS = 7


# What ONNX Runtime's CUDA provider 1.31.1 has no bfloat16 kernel for.
_WIDENED = {"ConvTranspose", "DepthToSpace", "Equal", "Pad", "SpaceToDepth"}


def _wide(dtype: ir.DataType) -> ir.DataType:
    return ir.DataType.FLOAT if dtype == ir.DataType.BFLOAT16 else dtype


class Builder:
    """Appends nodes to a graph in the making.

    Shapes are known numbers throughout. A node that was written before, with the same inputs and
    attributes, is not written again, so translations may ask for what others computed already.

    Attributes:
        scope: where the node being written comes from; nodes and values are named after it.
        nodes: what was written, in order.
        constants: values without a node, known when the graph is written.
        repeatable: whether one thread and two shall give the same bits, at some cost in speed.
        provider: what is to run the graph: any runtime, ONNX Runtime on the CPU alone, or a GPU.
    """

    def __init__(self, *, repeatable: bool = True, provider: LossProvider = "any") -> None:
        self.scope = ""
        self.repeatable = repeatable
        self.provider = provider
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self._written: dict[object, tuple[ir.Value, ...]] = {}
        self._pooled: dict[object, ir.Value] = {}

    # Values

    def constant(self, array: Array, *, name: str | None = None) -> ir.Value:
        """A tensor known now; equal small ones are stored once."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        key = (array.dtype.str, array.shape, array.tobytes() if array.size <= 4096 else id(array))
        if key not in self._pooled:
            tensor = ir.tensor(array)
            value = ir.Value(
                name=name or f"constant_{len(self.constants)}",
                shape=ir.Shape(array.shape),
                type=ir.TensorType(tensor.dtype),
                const_value=tensor,
            )
            self._pooled[key] = value
            self.constants.append(value)
        return self._pooled[key]

    def scalar(self, value: Scalar, dtype: ir.DataType) -> ir.Value:
        """A constant of no dimensions."""
        return self.constant(np.asarray(value, dtype=dtype.numpy()))

    def integers(self, values: Sequence[int]) -> ir.Value:
        """A vector of int64, as operators take axes and shapes."""
        return self.constant(np.asarray(values, dtype=np.int64))

    def filled(self, value: Scalar, shape: Sequence[int], dtype: ir.DataType) -> ir.Value:
        """A tensor of one repeated value, which takes no room in the file."""
        return self.expand(self.scalar(value, dtype), shape)

    def array_of(self, value: ir.Value) -> Array | None:
        """The array behind a constant, None for all other values."""
        return None if value.const_value is None else value.const_value.numpy()

    # Nodes

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        shape: Sequence[int] | None = None,
        dtype: ir.DataType | None = None,
        **attributes: int | float | str | Sequence[int],
    ) -> ir.Value:
        """Append a node of one output.

        Args:
            op_type: an operator of the ai.onnx domain.
            inputs: its inputs; None for an optional one that is left out.
            shape: of the output; by default the inputs' shapes broadcast.
            dtype: of the output; by default the first input's.
            attributes: of the node.
        """
        given = [value for value in inputs if value is not None]
        if shape is None:
            shape = np.broadcast_shapes(*(shape_of(value) for value in given))
        return self.ops(op_type, inputs, [shape], dtype or dtype_of(given[0]), **attributes)[0]

    def ops(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        shapes: Sequence[Sequence[int]],
        dtype: ir.DataType,
        **attributes: int | float | str | Sequence[int],
    ) -> tuple[ir.Value, ...]:
        """Append a node with an output of each shape."""
        if op_type in _WIDENED and ir.DataType.BFLOAT16 in (v and v.dtype for v in inputs):
            wide = [v and self._widened(v) for v in inputs]
            outputs = self.ops(op_type, wide, shapes, _wide(dtype), **attributes)
            return tuple(self.cast(output, dtype) for output in outputs)
        while inputs and inputs[-1] is None:  # optional ones at the end
            inputs = inputs[:-1]
        frozen = tuple(
            (key, value if isinstance(value, int | float | str) else tuple(value))
            for key, value in sorted(attributes.items())
        )
        key = (op_type, tuple(id(value) for value in inputs), dtype, frozen)
        if key not in self._written:
            name = f"{self.scope}/{op_type}_{len(self.nodes)}".lstrip("/")
            outputs = tuple(
                ir.Value(
                    name=name if len(shapes) == 1 else f"{name}:{index}",
                    shape=ir.Shape(shape),
                    type=ir.TensorType(dtype),
                )
                for index, shape in enumerate(shapes)
            )
            node = ir.node(op_type, inputs, dict(frozen), outputs=outputs, name=name)
            self.nodes.append(node)
            self._written[key] = outputs
        return self._written[key]

    def _widened(self, x: ir.Value) -> ir.Value:
        return self.cast(x, _wide(dtype_of(x)))

    def elementwise(
        self, op_type: str, *operands: Operand, dtype: ir.DataType | None = None
    ) -> ir.Value:
        """Append an element-wise node; numbers take the type of the tensors beside them."""
        like = next(value for value in operands if isinstance(value, ir.Value))
        values = [
            value if isinstance(value, ir.Value) else self.scalar(value, dtype_of(like))
            for value in operands
        ]
        return self.op(op_type, *self.unrepeated(values), dtype=dtype or dtype_of(like))

    def unrepeated(self, values: Sequence[ir.Value]) -> list[ir.Value]:
        """Operands of an element-wise node, without repeats that its broadcasting makes itself."""
        kept = list(values)
        for index, value in enumerate(values):
            source = value.producer()
            if source is None or source.op_type != "Expand":
                continue
            shorter = source.inputs[0]
            assert shorter is not None
            others = kept[:index] + kept[index + 1 :]
            shapes = [shape_of(other) for other in (shorter, *others)]
            if np.broadcast_shapes(*shapes) == np.broadcast_shapes(*map(shape_of, values)):
                kept[index] = shorter
        return kept

    def add(self, x: Operand, y: Operand) -> ir.Value:
        """x + y."""
        return self.elementwise("Add", x, y)

    def sub(self, x: Operand, y: Operand) -> ir.Value:
        """x - y."""
        return self.elementwise("Sub", x, y)

    def mul(self, x: Operand, y: Operand) -> ir.Value:
        """x * y."""
        return self.elementwise("Mul", x, y)

    def div(self, x: Operand, y: Operand) -> ir.Value:
        """x / y."""
        return self.elementwise("Div", x, y)

    def absolute(self, x: ir.Value) -> ir.Value:
        """|x| without Abs, which OpenVINO 2026.4 computes in place where others read x too."""
        return self.op("Max", x, self.op("Neg", x))

    def where(self, condition: ir.Value, x: Operand, y: Operand) -> ir.Value:
        """X where the condition holds, y elsewhere; at least one of them is a tensor."""
        like = x if isinstance(x, ir.Value) else y
        assert isinstance(like, ir.Value)
        dtype = dtype_of(like)
        values = [v if isinstance(v, ir.Value) else self.scalar(v, dtype) for v in (x, y)]
        return self.op("Where", condition, *values, dtype=dtype)

    def cast(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """X in another element type."""
        if dtype_of(x) == dtype:
            return x
        if (array := self.array_of(x)) is not None:
            return self.constant(array.astype(dtype.numpy()))
        return self.op("Cast", x, dtype=dtype, to=dtype.value)

    # Shapes

    def reshape(self, x: ir.Value, shape: Sequence[int]) -> ir.Value:
        """X in another shape, all of whose dimensions are given."""
        if shape_of(x) == tuple(shape):
            return x
        if (array := self.array_of(x)) is not None and array.size <= 4096:
            return self.constant(array.reshape(shape))
        source = x.producer()
        if source is not None and source.op_type == "Reshape":  # one does for two
            assert source.inputs[0] is not None
            return self.reshape(source.inputs[0], shape)
        return self.op("Reshape", x, self.integers(shape), shape=shape)

    def transpose(self, x: ir.Value, order: Sequence[int]) -> ir.Value:
        """X with its dimensions in another order."""
        if list(order) == list(range(len(order))):
            return x
        shape = [shape_of(x)[axis] for axis in order]
        kept = [axis for axis in order if shape_of(x)[axis] != 1]
        if kept == sorted(kept):  # nothing moves in memory
            return self.reshape(x, shape)
        return self.op("Transpose", x, shape=shape, perm=order)

    def expand(self, x: ir.Value, shape: Sequence[int]) -> ir.Value:
        """X repeated along dimensions of size 1, or new ones in front."""
        if shape_of(x) == tuple(shape):
            return x
        return self.op("Expand", x, self.integers(shape), shape=shape)

    def slice(self, x: ir.Value, axis: int, start: int, stop: int, step: int = 1) -> ir.Value:
        """x[start:stop:step] along an axis, 0 <= start < stop <= size."""
        size = shape_of(x)[axis]
        if (start, stop, step) == (0, size, 1):
            return x
        shape = list(shape_of(x))
        shape[axis] = math.ceil((stop - start) / step)
        bounds = (self.bounds([v]) for v in (start, stop, axis, step))
        return self.op("Slice", x, *bounds, shape=shape)

    def bounds(self, values: Sequence[int]) -> ir.Value:
        """A vector of integers, as Slice takes bounds, axes and steps.

        Of type int32 for a GPU: ONNX Runtime makes one Split of many slices whose bounds are int64,
        and CUDA's Split goes by a table, see `exportloss.export.aten.gpu_layout`.
        """
        return self.constant(np.asarray(values, np.int32 if self.for_gpu else np.int64))

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """Values joined along an axis."""
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
        """X cut into parts of the given sizes along an axis, none of them empty."""
        if len(sizes) == 1:
            return (x,)
        if self.for_gpu and gpu_layout.needs_table(sizes):
            return gpu_layout.cut(self, x, sizes, axis)
        if len(sizes) > _MOST_PARTS:
            ends = np.cumsum(sizes).tolist()
            places = zip(ends, sizes, strict=True)
            return tuple(self.slice(x, axis, end - size, end) for end, size in places)
        shapes = [[size if i == axis else d for i, d in enumerate(shape_of(x))] for size in sizes]
        return self.ops("Split", (x, self.integers(sizes)), shapes, dtype_of(x), axis=axis)

    def pad(self, x: ir.Value, pads: dict[int, tuple[int, int]], value: float = 0.0) -> ir.Value:
        """X with `pads[axis]` elements before and after; negative numbers cut off.

        Cutting is written as Slice, because not every runtime takes negative pads.
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
        """X with step - 1 zeros between its elements along an axis."""
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
        """A reduction over axes, none of them negative; `keep` leaves them with size 1."""
        if not axes:
            return x
        if op_type in ("ReduceSum", "ReduceMean"):
            if self.for_gpu:
                return gpu_layout.reduce(self, op_type, x, axes, keep=keep)
            last = len(shape_of(x)) - 1
            if last in axes and len(axes) > 1:
                # A CPU adds one number after the other; row by row, fewer digits are lost.
                x = self.reduce_at_once(op_type, x, [last], keep=True)
        return self.reduce_at_once(op_type, x, axes, keep=keep)

    def reduce_at_once(
        self, op_type: str, x: ir.Value, axes: Sequence[int], *, keep: bool
    ) -> ir.Value:
        """A reduction as one node."""
        shape = [
            1 if axis in axes else size
            for axis, size in enumerate(shape_of(x))
            if keep or axis not in axes
        ]
        return self.op(op_type, x, self.integers(axes), shape=shape, keepdims=int(keep))

    @property
    def for_gpu(self) -> bool:
        """Whether a GPU is to run the graph."""
        return self.provider == "gpu"

    def depends_on_threads(self, terms: int, columns: int) -> bool:
        """Whether to avoid that threads share out the columns of a product of so many terms.

        They share out the longer side of the result; which rows a thread has never matters.
        """
        return self.repeatable and terms > _TERMS_AT_A_TIME and columns <= _FEW_COLUMNS

    def swap(self, x: ir.Value) -> ir.Value:
        """X with its last two dimensions in the other order."""
        *before, row, column = range(len(shape_of(x)))
        return self.transpose(x, [*before, column, row])

    def matmul(self, x: ir.Value, y: ir.Value) -> ir.Value:
        """Matrix product of the last two dimensions, the others broadcast; both of rank >= 2."""
        (rows, terms), columns = shape_of(x)[-2:], shape_of(y)[-1]
        if rows < columns and self.depends_on_threads(terms, columns):
            return self.swap(self.matmul(self.swap(y), self.swap(x)))
        batch = np.broadcast_shapes(shape_of(x)[:-2], shape_of(y)[:-2])
        return self.op("MatMul", x, y, shape=(*batch, shape_of(x)[-2], shape_of(y)[-1]))
