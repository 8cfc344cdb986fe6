"""ATen's reductions and matrix products in ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir
import torch

from exportloss.export.aten.nodes import Scalar, dtype_of, shape_of
from exportloss.export.aten.registry import Translator, translates

__all__ = ["axes_of", "variance"]

aten = torch.ops.aten


def axes_of(x: ir.Value, dims: Sequence[int] | int | None) -> list[int]:
    """Return the sorted, non-negative axes of torch's dims; None or no dims mean all axes."""
    rank = len(shape_of(x))
    if isinstance(dims, int):
        dims = [dims]
    return sorted(dim % rank for dim in dims) if dims else list(range(rank))


def _reduction(op_type: str, *overloads: torch._ops.OpOverload) -> None:
    @translates(*overloads)
    def translate(
        t: Translator,
        x: ir.Value,
        dims: Sequence[int] | int | None = None,
        keepdim: bool = False,
        **_: object,
    ) -> ir.Value:
        return t.reduce(op_type, t.typed(x), axes_of(x, dims), keep=keepdim)


_reduction("ReduceSum", aten.sum.default, aten.sum.dim_IntList)
_reduction("ReduceMean", aten.mean.default, aten.mean.dim)
_reduction("ReduceMax", aten.amax.default, aten.max.default)
_reduction("ReduceMin", aten.amin.default, aten.min.default)


def _quantifier(op_type: str, *overloads: torch._ops.OpOverload) -> None:
    @translates(*overloads)
    def translate(
        t: Translator, x: ir.Value, dims: Sequence[int] | int | None = None, keepdim: bool = False
    ) -> ir.Value:
        counted = t.cast(t.cast(x, ir.DataType.BOOL), ir.DataType.INT32)
        return t.cast(t.reduce(op_type, counted, axes_of(x, dims), keep=keepdim), t.dtype)


_quantifier("ReduceMin", aten.all.default, aten.all.dim, aten.all.dims)
_quantifier("ReduceMax", aten.any.default, aten.any.dim, aten.any.dims)


def variance(
    t: Translator, x: ir.Value, axes: Sequence[int], *, correction: Scalar = 0
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return variance and mean, both with the axes kept, and the deviations from the mean."""
    mean = t.reduce("ReduceMean", x, axes, keep=True)
    deviation = t.sub(x, mean)
    count = math.prod(shape_of(x)[axis] for axis in axes)
    if t.forms.norms:
        norm = t.reduce("ReduceL2", deviation, axes, keep=True)
        biased = t.mul(t.mul(norm, norm), 1 / count)
    else:
        biased = t.reduce("ReduceMean", t.mul(deviation, deviation), axes, keep=True)
    if correction:
        biased = t.mul(biased, count / (count - correction))
    return biased, mean, deviation


@translates(aten.var_mean.correction)
def _var_mean(
    t: Translator,
    x: ir.Value,
    dims: Sequence[int] | None = None,
    *,
    correction: Scalar | None = None,
    keepdim: bool = False,
) -> tuple[ir.Value, ir.Value]:
    unbiased = 1 if correction is None else correction
    var, mean, _ = variance(t, x, axes_of(x, dims), correction=unbiased)
    return t.reshape(var, t.shape), t.reshape(mean, t.shape)


@translates(aten.var.correction)
def _var(
    t: Translator,
    x: ir.Value,
    dims: Sequence[int] | None = None,
    *,
    correction: Scalar | None = None,
    keepdim: bool = False,
) -> ir.Value:
    unbiased = 1 if correction is None else correction
    return t.reshape(variance(t, x, axes_of(x, dims), correction=unbiased)[0], t.shape)


@translates(aten.cumsum.default)
def _cumsum(t: Translator, x: ir.Value, dim: int, **_: object) -> ir.Value:
    return t.op("CumSum", t.typed(x), t.scalar(dim, ir.DataType.INT64))


@translates(aten.mm.default, aten.bmm.default)
def _matmul(t: Translator, x: ir.Value, y: ir.Value) -> ir.Value:
    return t.matmul(x, y)


@translates(aten.mv.default)
def _mv(t: Translator, x: ir.Value, y: ir.Value) -> ir.Value:
    return t.reshape(t.matmul(x, t.reshape(y, (*shape_of(y), 1))), t.shape)


@translates(aten.dot.default)
def _dot(t: Translator, x: ir.Value, y: ir.Value) -> ir.Value:
    return t.reduce("ReduceSum", t.mul(x, y), [0])


@translates(aten.addmm.default)
def _addmm(
    t: Translator, bias: ir.Value, x: ir.Value, y: ir.Value, *, beta: Scalar = 1, alpha: Scalar = 1
) -> ir.Value:
    product = t.matmul(x, y)
    product = product if alpha == 1 else t.mul(product, alpha)
    return t.add(product, bias if beta == 1 else t.mul(bias, beta))


@translates(aten.linalg_vector_norm.default)
def _vector_norm(
    t: Translator,
    x: ir.Value,
    order: Scalar = 2,
    dims: Sequence[int] | None = None,
    keepdim: bool = False,
    **_: object,
) -> ir.Value:
    axes = axes_of(x, dims)
    if order == 2:
        return t.op("Sqrt", t.reduce("ReduceSum", t.mul(x, x), axes, keep=keepdim))
    powers = t.op("Pow", t.absolute(x), t.scalar(order, dtype_of(x)))
    total = t.reduce("ReduceSum", powers, axes, keep=keepdim)
    return t.op("Pow", total, t.scalar(1 / order, dtype_of(x)))
