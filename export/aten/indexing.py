"""ATen's gathers and scatters in ONNX.

Every scatter is a ScatterElements: ONNX Runtime's ScatterND with a reduction has a data race on
duplicate indices with more than one thread, and TensorRT's accepts no reduction.
"""

# ruff: noqa: PLR0917 - the signatures are ATen's
from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir
import torch

from exportloss.errors import ExportError
from exportloss.export.aten.nodes import Operand, Scalar, dtype_of, shape_of
from exportloss.export.aten.registry import Translator, translates

__all__: list[str] = []

aten = torch.ops.aten

_REDUCTIONS = {"sum": "add", "prod": "mul", "amax": "max", "amin": "min"}


@translates(aten.index_select.default)
def _index_select(t: Translator, x: ir.Value, dim: int, index: ir.Value) -> ir.Value:
    # ONNX Runtime's Gather takes 7 times as long to pick single elements.
    picks_elements = len(shape_of(x)) == 1 and t.provider == "cpu"
    op_type = "GatherElements" if picks_elements else "Gather"
    return t.op(op_type, x, index, shape=t.shape, axis=dim % len(shape_of(x)))


@translates(aten.embedding.default)
def _embedding(t: Translator, x: ir.Value, index: ir.Value, *_: object) -> ir.Value:
    return t.op("Gather", x, index, shape=t.shape, axis=0)


@translates(aten.gather.default)
def _gather(t: Translator, x: ir.Value, dim: int, index: ir.Value, **_: object) -> ir.Value:
    return t.op("GatherElements", x, index, shape=t.shape, axis=dim % len(t.shape))


@translates(aten.index_add.default)
def _index_add(
    t: Translator, x: ir.Value, dim: int, index: ir.Value, source: ir.Value, *, alpha: Scalar = 1
) -> ir.Value:
    axis = dim % len(t.shape)
    sizes = [shape_of(index)[0] if i == axis else 1 for i in range(len(t.shape))]
    column = t.reshape(index, sizes)
    updates = source if alpha == 1 else t.mul(source, alpha)
    return _scatter(t, x, axis, t.expand(column, shape_of(source)), updates, "add")


@translates(aten.scatter_add.default)
def _scatter_add(
    t: Translator, x: ir.Value, dim: int, index: ir.Value, source: ir.Value
) -> ir.Value:
    return _scatter(t, x, dim % len(t.shape), index, source, "add")


@translates(aten.scatter_reduce.two)
def _scatter_reduce(
    t: Translator,
    x: ir.Value,
    dim: int,
    index: ir.Value,
    source: ir.Value,
    reduce: str,
    *,
    include_self: bool = True,
) -> ir.Value:
    if not include_self or reduce not in _REDUCTIONS:
        raise ExportError(
            f"scatter_reduce {reduce!r} with include_self={include_self} has no ONNX operator; "
            f"use one of {sorted(_REDUCTIONS)} with include_self=True"
        )
    return _scatter(t, x, dim % len(t.shape), index, source, _REDUCTIONS[reduce])


@translates(aten.scatter.src, aten.scatter.value)
def _scatter_write(
    t: Translator, x: ir.Value, dim: int, index: ir.Value, source: Operand
) -> ir.Value:
    updates = t.expand(t.typed(source), shape_of(index))
    return _scatter(t, x, dim % len(t.shape), index, updates, "none")


@translates(aten.index.Tensor)
def _index(t: Translator, x: ir.Value, indices: Sequence[ir.Value | None]) -> ir.Value:
    first, flat = _flat_index(t, x, indices)
    shape = shape_of(x)
    count = len([index for index in indices if index is not None])
    merged = (*shape[:first], math.prod(shape[first : first + count]), *shape[first + count :])
    return t.op("Gather", t.reshape(x, merged), flat, shape=t.shape, axis=first)


@translates(aten.index_put.default)
def _index_put(
    t: Translator,
    x: ir.Value,
    indices: Sequence[ir.Value | None],
    values: ir.Value,
    accumulate: bool = False,
) -> ir.Value:
    first, flat = _flat_index(t, x, indices)
    count = len([index for index in indices if index is not None])
    before, inner = math.prod(shape_of(x)[:first]), math.prod(shape_of(x)[first + count :])
    rows = math.prod(shape_of(x)[first : first + count])
    wanted = (*shape_of(x)[:first], *shape_of(flat), *shape_of(x)[first + count :])
    places = math.prod(shape_of(flat))
    updates = t.reshape(t.expand(t.typed(values), wanted), (before, places, inner))
    column = t.expand(t.reshape(flat, (1, places, 1)), (before, places, inner))
    reduction = "add" if accumulate else "none"
    written = _scatter(t, t.reshape(x, (before, rows, inner)), 1, column, updates, reduction)
    return t.reshape(written, shape_of(x))


def _flat_index(
    t: Translator, x: ir.Value, indices: Sequence[ir.Value | None]
) -> tuple[int, ir.Value]:
    """Return the first indexed dimension and one index into all indexed dimensions flattened."""
    places = [place for place, index in enumerate(indices) if index is not None]
    if places != list(range(places[0], places[-1] + 1)):
        raise ExportError("the indexed dimensions are not adjacent; index one after the other")
    flat: ir.Value | None = None
    for place in places:
        index, size = indices[place], shape_of(x)[place]
        assert index is not None
        if dtype_of(index) == ir.DataType.BOOL:
            raise ExportError(
                "indexing with a mask gives a shape that depends on data; use torch.where"
            )
        if len(places) == 1:  # ONNX takes negative ones too
            return place, index
        negative = t.elementwise("Less", index, 0, dtype=ir.DataType.BOOL)
        counted = t.where(negative, t.add(index, size), index)
        flat = counted if flat is None else t.add(t.mul(flat, size), counted)
    assert flat is not None
    return places[0], flat


def _scatter(
    t: Translator, x: ir.Value, axis: int, index: ir.Value, updates: ir.Value, reduction: str
) -> ir.Value:
    return t.op(
        "ScatterElements", x, index, updates, shape=shape_of(x), axis=axis, reduction=reduction
    )
