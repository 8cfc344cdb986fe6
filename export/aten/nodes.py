"""Write the nodes of an ONNX graph, every value with its element type and static shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from exportloss.export.aten.forms import Forms
from exportloss.runtime.artifact.manifest import StepProvider

__all__ = ["NodeWriter", "Normalization", "Operand", "Scalar", "dtype_of", "shape_of"]

Scalar = bool | int | float
Operand = ir.Value | Scalar


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """Return the static shape of a value."""
    assert value.shape is not None
    return value.shape.numpy()


def dtype_of(value: ir.Value) -> ir.DataType:
    """Return the element type of a value."""
    assert value.dtype is not None
    return value.dtype


# Operators for which ONNX Runtime 1.31.1 has no bfloat16 kernel on CUDA.
_WIDENED = {"ConvTranspose", "DepthToSpace", "Equal", "Pad", "SpaceToDepth"}


def _wide(dtype: ir.DataType) -> ir.DataType:
    return ir.DataType.FLOAT if dtype == ir.DataType.BFLOAT16 else dtype


@dataclasses.dataclass(kw_only=True)
class Normalization:
    """A normalization of a batch, and what its backward pass takes from it once it is written.

    Attributes:
        x: Its input, (B, C, ...).
        weight: Its factor, (C,).
        var: Variance of x, (C,).
        eps: What is added to the variance.
        root: Square root of both, (C,).
        scale: The weight over the root, (C, 1, 1, 1).
    """

    x: ir.Value
    weight: ir.Value
    var: ir.Value
    eps: float
    root: ir.Value | None = None
    scale: ir.Value | None = None


class NodeWriter:
    """Appends nodes to a graph under construction.

    All shapes are static. A node with the same operator, inputs and attributes as an earlier one is
    not written again, so a translation may ask for what another has already computed.

    Attributes:
        scope: Path of the module that is being translated; nodes and values are named after it.
        nodes: Nodes written so far, in order.
        constants: Tensors known at export time; they become initializers.
        repeatable: Whether the graph must give the same bits with one thread and with two, at some
            cost in speed.
        normalizations: Normalizations of batches written so far.
        provider: Target of the graph: any runtime, ONNX Runtime on the CPU only, OpenVINO or a GPU.
        forms: Forms of operators to write, where several compute the same.
    """

    def __init__(
        self,
        *,
        repeatable: bool = True,
        provider: StepProvider = "any",
        forms: Forms | None = None,
    ) -> None:
        self.scope = ""
        self.repeatable = repeatable
        self.provider = provider
        self.forms = forms or Forms()
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []
        self.normalizations: list[Normalization] = []
        self._written: dict[object, tuple[ir.Value, ...]] = {}
        self._pooled: dict[object, ir.Value] = {}

    # Values

    def constant(self, array: NDArray[Any], *, name: str | None = None) -> ir.Value:
        """Return an array as a value. Equal arrays of at most 4096 elements are stored once."""
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
        """Return a constant without dimensions."""
        return self.constant(np.asarray(value, dtype=dtype.numpy()))

    def integers(self, values: Sequence[int]) -> ir.Value:
        """Return an int64 vector, the form in which operators take axes and shapes."""
        return self.constant(np.asarray(values, dtype=np.int64))

    def array_of(self, value: ir.Value) -> NDArray[Any] | None:
        """Return the array of a constant, or None if the value is not a constant."""
        return None if value.const_value is None else value.const_value.numpy()

    @property
    def for_gpu(self) -> bool:
        """Whether the graph is exported for a GPU."""
        return self.provider == "gpu"

    # Nodes

    def op(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        shape: Sequence[int] | None = None,
        dtype: ir.DataType | None = None,
        **attributes: int | float | str | Sequence[int],
    ) -> ir.Value:
        """Append a node with one output and return the output.

        Args:
            op_type: Operator of the `ai.onnx` domain.
            inputs: Inputs of the node; None for an optional input that is not given.
            shape: Shape of the output; by default the broadcast shape of the inputs.
            dtype: Element type of the output; by default that of the first input.
            attributes: Attributes of the node.
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
        *dtypes: ir.DataType,
        **attributes: int | float | str | Sequence[int],
    ) -> tuple[ir.Value, ...]:
        """Append a node with one output per shape and return the outputs.

        Args:
            op_type: Operator of the `ai.onnx` domain.
            inputs: Inputs of the node; None for an optional input that is not given.
            shapes: Shapes of the outputs.
            dtypes: Element types of the outputs; a single one applies to all.
            attributes: Attributes of the node.
        """
        if len(dtypes) == 1:
            dtypes *= len(shapes)
        if op_type in _WIDENED and ir.DataType.BFLOAT16 in (v and v.dtype for v in inputs):
            wide = [v and self._widened(v) for v in inputs]
            outputs = self.ops(op_type, wide, shapes, *map(_wide, dtypes), **attributes)
            return tuple(map(self.cast, outputs, dtypes))
        while inputs and inputs[-1] is None:  # trailing optional inputs are omitted
            inputs = inputs[:-1]
        frozen = tuple(
            (key, value if isinstance(value, int | float | str) else tuple(value))
            for key, value in sorted(attributes.items())
        )
        key = (op_type, tuple(id(value) for value in inputs), dtypes, frozen)
        if key not in self._written:
            name = f"{self.scope}/{op_type}_{len(self.nodes)}".lstrip("/")
            outputs = tuple(
                ir.Value(
                    name=name if len(shapes) == 1 else f"{name}:{index}",
                    shape=ir.Shape(shape),
                    type=ir.TensorType(dtype),
                )
                for index, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True))
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
        """Append an element-wise node; numbers take the element type of the first tensor."""
        like = next(value for value in operands if isinstance(value, ir.Value))
        values = [
            value if isinstance(value, ir.Value) else self.scalar(value, dtype_of(like))
            for value in operands
        ]
        return self.op(op_type, *self.unrepeated(values), dtype=dtype or dtype_of(like))

    def unrepeated(self, values: Sequence[ir.Value]) -> list[ir.Value]:
        """Return the operands without the Expand nodes that broadcasting makes redundant."""
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
        """Return x + y."""
        return self.elementwise("Add", x, y)

    def sub(self, x: Operand, y: Operand) -> ir.Value:
        """Return x - y."""
        return self.elementwise("Sub", x, y)

    def mul(self, x: Operand, y: Operand) -> ir.Value:
        """Return x * y."""
        return self.elementwise("Mul", x, y)

    def div(self, x: Operand, y: Operand) -> ir.Value:
        """Return x / y."""
        return self.elementwise("Div", x, y)

    def absolute(self, x: ir.Value) -> ir.Value:
        """Return |x| without Abs, which OpenVINO 2026.4 computes in place even if x is reused."""
        return self.op("Max", x, self.op("Neg", x))

    def where(self, condition: ir.Value, x: Operand, y: Operand) -> ir.Value:
        """Return x where the condition holds, y elsewhere; at least one of them is a tensor."""
        like = x if isinstance(x, ir.Value) else y
        assert isinstance(like, ir.Value)
        dtype = dtype_of(like)
        values = [v if isinstance(v, ir.Value) else self.scalar(v, dtype) for v in (x, y)]
        return self.op("Where", condition, *values, dtype=dtype)

    def cast(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return x in another element type."""
        if dtype_of(x) == dtype:
            return x
        if (array := self.array_of(x)) is not None:
            return self.constant(array.astype(dtype.numpy()))
        return self.op("Cast", x, dtype=dtype, to=dtype.value)
