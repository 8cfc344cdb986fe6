"""ATen's views, copies, joins, splits and constants in ONNX."""

# ruff: noqa: PLR0917 - the signatures are ATen's
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from exportloss.errors import ExportError
from exportloss.export.aten.nodes import Operand, Scalar, shape_of
from exportloss.export.aten.registry import Translator, translates
from exportloss.export.aten.shortcuts import joined_vectors

__all__: list[str] = []

aten = torch.ops.aten


@translates(
    aten.clone.default,
    aten.detach.default,
    aten.alias.default,
    aten.lift_fresh_copy.default,
    aten._to_copy.default,
    aten.positive.default,
)
def _same(t: Translator, x: ir.Value, **_: object) -> ir.Value:
    return t.typed(x)  # memory formats and devices are up to the runtime


@translates(aten.copy.default)
def _copy(t: Translator, _x: ir.Value, source: ir.Value, non_blocking: bool = False) -> ir.Value:
    return t.expand(t.typed(source), t.shape)


@translates(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    aten.unsqueeze.default,
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
def _reshape(t: Translator, x: ir.Value, *_: object) -> ir.Value:
    return t.reshape(x, t.shape)


@translates(aten.expand.default)
def _expand(t: Translator, x: ir.Value, size: Sequence[int], implicit: bool = False) -> ir.Value:
    return t.expand(x, t.shape)


@translates(aten.permute.default)
def _permute(t: Translator, x: ir.Value, order: Sequence[int]) -> ir.Value:
    return t.transpose(x, [axis % len(order) for axis in order])


@translates(aten.transpose.int)
def _transpose(t: Translator, x: ir.Value, first: int, second: int) -> ir.Value:
    order = list(range(len(shape_of(x))))
    order[first], order[second] = order[second], order[first]
    return t.transpose(x, order)


@translates(aten.t.default)
def _t(t: Translator, x: ir.Value) -> ir.Value:
    return t.transpose(x, list(range(len(shape_of(x))))[::-1])


@translates(aten.select.int)
def _select(t: Translator, x: ir.Value, dim: int, index: int) -> ir.Value:
    return _pick(t, x, _axis(x, dim), index % shape_of(x)[dim])


@translates(aten.select_backward.default)
def _select_backward(
    t: Translator, gradient: ir.Value, sizes: Sequence[int], dim: int, index: int
) -> ir.Value:
    axis, index = dim % len(sizes), index % sizes[dim]
    row = t.reshape(gradient, [1 if i == axis else size for i, size in enumerate(sizes)])
    return t.pad(row, {axis: (index, sizes[axis] - index - 1)})


@translates(aten.slice.Tensor)
def _slice(
    t: Translator,
    x: ir.Value,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> ir.Value:
    bounds = slice(start, end, step).indices(shape_of(x)[dim])
    return t.slice(x, _axis(x, dim), *bounds)


@translates(aten.slice_backward.default)
def _slice_backward(
    t: Translator,
    gradient: ir.Value,
    sizes: Sequence[int],
    dim: int,
    start: int,
    end: int,
    step: int,
) -> ir.Value:
    axis = dim % len(sizes)
    first, _, _ = slice(start, end, step).indices(sizes[axis])
    spread = t.spread(gradient, axis, step)
    return t.pad(spread, {axis: (first, sizes[axis] - first - shape_of(spread)[axis])})


@translates(aten.cat.default)
def _cat(t: Translator, values: Sequence[ir.Value], dim: int = 0) -> ir.Value:
    parts = [t.typed(value) for value in values if shape_of(value) != (0,)]
    if t.forms.joined_factors and len(t.shape) == 1 and t.dtype == ir.DataType.FLOAT:
        return joined_vectors(t, parts)
    return t.concat(parts, dim % len(t.shape))


@translates(aten.stack.default)
def _stack(t: Translator, values: Sequence[ir.Value], dim: int = 0) -> ir.Value:
    axis, parts = dim % len(t.shape), [t.typed(value) for value in values]
    if axis < len(t.shape) - 1:  # same memory as the parts joined along this axis
        return t.reshape(t.concat(parts, axis), t.shape)
    return t.concat([t.reshape(part, (*t.shape[:-1], 1)) for part in parts], axis)


@translates(aten.split_with_sizes.default)
def _split_with_sizes(
    t: Translator, x: ir.Value, sizes: Sequence[int], dim: int = 0
) -> tuple[ir.Value, ...]:
    return t.split(x, sizes, _axis(x, dim))


@translates(aten.split.Tensor)
def _split(t: Translator, x: ir.Value, size: int, dim: int = 0) -> tuple[ir.Value, ...]:
    whole, rest = divmod(shape_of(x)[dim], size)
    return t.split(x, [size] * whole + [rest] * (rest > 0), _axis(x, dim))


@translates(aten.unbind.int)
def _unbind(t: Translator, x: ir.Value, dim: int = 0) -> tuple[ir.Value, ...]:
    axis, count = _axis(x, dim), shape_of(x)[dim]
    if axis == 0:
        return tuple(_pick(t, x, axis, index) for index in range(count))
    return tuple(t.reshape(part, t.shape) for part in t.split(x, [1] * count, axis))


@translates(aten.constant_pad_nd.default)
def _pad(t: Translator, x: ir.Value, pads: Sequence[int], value: float = 0.0) -> ir.Value:
    rank = len(shape_of(x))
    pairs = {rank - 1 - i: (pads[2 * i], pads[2 * i + 1]) for i in range(len(pads) // 2)}
    return t.pad(x, pairs, value)


@translates(aten.flip.default)
def _flip(t: Translator, x: ir.Value, dims: Sequence[int]) -> ir.Value:
    for dim in dims:
        axis = _axis(x, dim)
        order = t.integers(range(shape_of(x)[axis] - 1, -1, -1))
        x = t.op("Gather", x, order, shape=shape_of(x), axis=axis)
    return x


@translates(aten.repeat.default)
def _repeat(t: Translator, x: ir.Value, repeats: Sequence[int]) -> ir.Value:
    grown = t.reshape(x, (1,) * (len(repeats) - len(shape_of(x))) + shape_of(x))
    return t.op("Tile", grown, t.integers(repeats), shape=t.shape)


@translates(aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)
def _zeros(t: Translator, *_: object, **__: object) -> ir.Value:
    return t.filled(0, t.shape, t.dtype)


@translates(aten.empty.memory_format, aten.empty_like.default, aten.new_empty.default)
def _empty(t: Translator, *_: object, **__: object) -> ir.Value:
    return t.filled(0, t.shape, t.dtype)  # any values do: they are overwritten before use


@translates(aten.ones.default, aten.ones_like.default, aten.new_ones.default)
def _ones(t: Translator, *_: object, **__: object) -> ir.Value:
    return t.filled(1, t.shape, t.dtype)


@translates(aten.full.default, aten.full_like.default, aten.new_full.default, aten.fill.Scalar)
def _full(t: Translator, _size: object, value: Operand, *rest: Any, **_: object) -> ir.Value:
    value = rest[0] if rest else value  # new_full takes the tensor before the size
    return t.expand(t.typed(value), t.shape)


@translates(aten.scalar_tensor.default)
def _scalar_tensor(t: Translator, value: Scalar, **_: object) -> ir.Value:
    return t.scalar(value, t.dtype)


@translates(aten.arange.default, aten.arange.start, aten.arange.start_step)
def _arange(t: Translator, *bounds: Scalar, **_: object) -> ir.Value:
    return t.constant(np.arange(*bounds).astype(t.dtype.numpy()))


def _pick(t: Translator, x: ir.Value, axis: int, index: int) -> ir.Value:
    """Return x at an index along an axis, without the axis."""
    return t.op("Gather", x, t.scalar(index, ir.DataType.INT64), shape=t.shape, axis=axis)


def _axis(x: ir.Value, dim: int) -> int:
    rank = len(shape_of(x))
    if not -rank <= dim < rank:
        raise ExportError(f"dimension {dim} is out of range for a tensor of rank {rank}")
    return dim % rank
