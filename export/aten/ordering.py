"""ATen's maxima with their places in ONNX; of equal values the first, as ONNX has it."""

from __future__ import annotations

import onnx_ir as ir
import torch

from exportloss.export.aten.nodes import dtype_of, shape_of
from exportloss.export.aten.registry import Translator, translates
from exportloss.loss.task_aligned import largest as largest_op

__all__: list[str] = []

aten = torch.ops.aten

_BELOW_ALL = -1.0  # of values that are >= 0
# ONNX Runtime has no ArgMax of them; integers in graphs are indices, far below 2^31.
_NARROWED = {ir.DataType.BOOL, ir.DataType.INT64}


@translates(aten.topk.default)
def _topk(  # noqa: PLR0917 - the signature is ATen's
    t: Translator, x: ir.Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[ir.Value, ir.Value]:
    return _top(t, x, k, dim % len(shape_of(x)), largest=largest)


def _largest(op_type: str, reduction: str, overload: torch._ops.OpOverload) -> None:
    @translates(overload)
    def translate(
        t: Translator, x: ir.Value, dim: int, keepdim: bool = False
    ) -> tuple[ir.Value, ir.Value]:
        axis = dim % len(shape_of(x))
        counted = t.cast(x, ir.DataType.INT32) if dtype_of(x) == ir.DataType.BOOL else x
        value = t.cast(t.reduce(reduction, counted, [axis], keep=keepdim), dtype_of(x))
        return value, _place(t, op_type, x, axis, keepdim)


_largest("ArgMax", "ReduceMax", aten.max.dim)
_largest("ArgMin", "ReduceMin", aten.min.dim)


def _place_of(op_type: str, overload: torch._ops.OpOverload) -> None:
    @translates(overload)
    def translate(
        t: Translator, x: ir.Value, dim: int | None = None, keepdim: bool = False
    ) -> ir.Value:
        if dim is None:
            place = _place(t, op_type, t.reshape(x, (-1,)), 0, keep=False)
            return t.reshape(place, t.shape)
        return _place(t, op_type, x, dim % len(shape_of(x)), keepdim)


_place_of("ArgMax", aten.argmax.default)
_place_of("ArgMin", aten.argmin.default)


@translates(largest_op.largest_places._opoverload)
def _largest_places(t: Translator, values: ir.Value, count: int) -> ir.Value:
    """Rounds of ArgMax, or TopK for ONNX Runtime's CPU provider.

    TopK's order of equal values is in the standard, but not all runtimes keep to it, and WebGPU
    lacks the operator.
    """
    if t.provider == "cpu":
        return _top(t, values, count, 1, largest=True)[1]
    rows = shape_of(values)[0]
    below = t.filled(_BELOW_ALL, (rows, 1), dtype_of(values))
    places = []
    for _ in range(count):
        places.append(_place(t, "ArgMax", values, 1, keep=True))
        values = t.op(
            "ScatterElements",
            values,
            places[-1],
            below,
            shape=shape_of(values),
            axis=1,
            reduction="none",
        )
    return t.concat(places, 1)


def _top(
    t: Translator, x: ir.Value, count: int, axis: int, *, largest: bool
) -> tuple[ir.Value, ir.Value]:
    shape = [count if i == axis else size for i, size in enumerate(shape_of(x))]
    kinds = dtype_of(x), ir.DataType.INT64
    values, places = t.ops(
        "TopK",
        (x, t.integers([count])),
        [shape, shape],
        *kinds,
        axis=axis,
        largest=int(largest),
    )
    return values, places


def _place(t: Translator, op_type: str, x: ir.Value, axis: int, keep: bool) -> ir.Value:
    if dtype_of(x) in _NARROWED:
        x = t.cast(x, ir.DataType.INT32)
    shape = [1 if i == axis else size for i, size in enumerate(shape_of(x)) if keep or i != axis]
    return t.op(op_type, x, shape=shape, dtype=ir.DataType.INT64, axis=axis, keepdims=int(keep))
