"""ATen's arithmetic, comparisons and activations in ONNX."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from exportloss.export.aten.nodes import Operand, Scalar, dtype_of
from exportloss.export.aten.registry import Translator, translates
from exportloss.export.aten.shortcuts import fold_into_convolution, merge_into_scatter

__all__: list[str] = []

aten = torch.ops.aten


@translates(aten.add.Tensor, aten.add.Scalar)
def _add(t: Translator, x: Operand, y: Operand, alpha: Scalar = 1) -> ir.Value:
    y = _times(t, y, alpha)
    for one, other in ((x, y), (y, x)):
        if isinstance(one, ir.Value) and isinstance(other, ir.Value):
            merged = fold_into_convolution(t, one, other, "Add")
            merged = merge_into_scatter(t, one, other) if merged is None else merged
            if merged is not None:
                return merged
    return t.arithmetic("Add", x, y)


@translates(aten.sub.Tensor, aten.sub.Scalar)
def _sub(t: Translator, x: Operand, y: Operand, alpha: Scalar = 1) -> ir.Value:
    return t.arithmetic("Sub", x, _times(t, y, alpha))


@translates(aten.rsub.Tensor, aten.rsub.Scalar)
def _rsub(t: Translator, x: Operand, y: Operand, alpha: Scalar = 1) -> ir.Value:
    return t.arithmetic("Sub", y, _times(t, x, alpha))


def _times(t: Translator, x: Operand, factor: Scalar) -> Operand:
    if factor == 1:
        return x
    return t.arithmetic("Mul", x, factor) if isinstance(x, ir.Value) else x * factor


@translates(aten.mul.Tensor, aten.mul.Scalar)
def _mul(t: Translator, x: Operand, y: Operand) -> ir.Value:
    for one, other in ((x, y), (y, x)):
        if isinstance(one, ir.Value) and isinstance(other, ir.Value):
            folded = fold_into_convolution(t, one, other, "Mul")
            if folded is not None:
                return folded
    # The product of two masks is their conjunction.
    return t.arithmetic("And" if t.dtype == ir.DataType.BOOL else "Mul", x, y)


@translates(aten.div.Tensor, aten.div.Scalar)
def _div(t: Translator, x: Operand, y: Operand) -> ir.Value:
    return t.arithmetic("Div", x, y)


@translates(aten.div.Tensor_mode, aten.div.Scalar_mode)
def _div_mode(t: Translator, x: Operand, y: Operand, rounding_mode: str | None) -> ir.Value:
    if rounding_mode is None:
        return t.arithmetic("Div", x, y)
    dtype = t.dtype
    t.dtype = ir.DataType.FLOAT  # ONNX has no floor division of integers
    quotient = t.arithmetic("Div", x, y)
    floor = t.op("Floor", quotient)
    if rounding_mode == "trunc":
        floor = t.where(
            t.elementwise("Less", quotient, 0.0, dtype=ir.DataType.BOOL),
            t.op("Ceil", quotient),
            floor,
        )
    return t.cast(floor, dtype)


@translates(aten.remainder.Tensor, aten.remainder.Scalar)
def _remainder(t: Translator, x: Operand, y: Operand) -> ir.Value:
    a, b = t.typed(x), t.typed(y)
    if not dtype_of(a).is_floating_point():
        return t.op("Mod", a, b)
    return t.sub(a, t.mul(t.op("Floor", t.div(a, b)), b))


@translates(aten.maximum.default)
def _maximum(t: Translator, x: ir.Value, y: ir.Value) -> ir.Value:
    return t.arithmetic("Max", x, y)


@translates(aten.minimum.default)
def _minimum(t: Translator, x: ir.Value, y: ir.Value) -> ir.Value:
    return t.arithmetic("Min", x, y)


@translates(aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar)
def _pow(t: Translator, x: Operand, exponent: Operand) -> ir.Value:
    base = t.typed(x)
    match exponent:
        case 1:
            return base
        case 2:
            return t.mul(base, base)
        case 3:
            return t.mul(t.mul(base, base), base)
        case 0.5:
            return t.op("Sqrt", base)
        case -1:
            return t.op("Reciprocal", base)
    return t.arithmetic("Pow", base, exponent)


@translates(aten.rsqrt.default)
def _rsqrt(t: Translator, x: ir.Value) -> ir.Value:
    return t.op("Reciprocal", t.op("Sqrt", t.typed(x)))


def _unary(op_type: str, *overloads: torch._ops.OpOverload) -> None:
    @translates(*overloads)
    def translate(t: Translator, x: ir.Value) -> ir.Value:
        return t.op(op_type, t.typed(x))


@translates(aten.abs.default)
def _abs(t: Translator, x: ir.Value) -> ir.Value:
    return t.absolute(t.typed(x))


_unary("Neg", aten.neg.default)
_unary("Exp", aten.exp.default)
_unary("Log", aten.log.default)
_unary("Sqrt", aten.sqrt.default)
_unary("Reciprocal", aten.reciprocal.default)
_unary("Sign", aten.sign.default, aten.sgn.default)
_unary("Floor", aten.floor.default)
_unary("Ceil", aten.ceil.default)
_unary("Round", aten.round.default)
_unary("Tanh", aten.tanh.default)
_unary("Sin", aten.sin.default)
_unary("Cos", aten.cos.default)
_unary("Erf", aten.erf.default)
_unary("Relu", aten.relu.default)


def _compare(op_type: str, *overloads: torch._ops.OpOverload) -> None:
    @translates(*overloads)
    def translate(t: Translator, x: Operand, y: Operand) -> ir.Value:
        return t.comparison(op_type, x, y)


_compare("Equal", aten.eq.Tensor, aten.eq.Scalar)
_compare("Less", aten.lt.Tensor, aten.lt.Scalar)
_compare("LessOrEqual", aten.le.Tensor, aten.le.Scalar)
_compare("Greater", aten.gt.Tensor, aten.gt.Scalar)
_compare("GreaterOrEqual", aten.ge.Tensor, aten.ge.Scalar)


@translates(aten.ne.Tensor, aten.ne.Scalar)
def _not_equal(t: Translator, x: Operand, y: Operand) -> ir.Value:
    return t.op("Not", t.comparison("Equal", x, y))


def _logical(op_type: str, *overloads: torch._ops.OpOverload) -> None:
    @translates(*overloads)
    def translate(t: Translator, *operands: Operand) -> ir.Value:
        values = [t.typed(x, ir.DataType.BOOL) for x in operands]
        return t.cast(t.op(op_type, *values), t.dtype)


_logical("And", aten.logical_and.default)
_logical("Or", aten.logical_or.default)
_logical("Xor", aten.logical_xor.default)
_logical("Not", aten.logical_not.default)


def _bitwise(op_type: str, on_bool: str, *overloads: torch._ops.OpOverload) -> None:
    @translates(*overloads)
    def translate(t: Translator, *operands: Operand) -> ir.Value:
        return t.arithmetic(on_bool if t.dtype == ir.DataType.BOOL else op_type, *operands)


_bitwise("BitwiseAnd", "And", aten.bitwise_and.Tensor, aten.bitwise_and.Scalar)
_bitwise("BitwiseOr", "Or", aten.bitwise_or.Tensor, aten.bitwise_or.Scalar)
_bitwise("BitwiseXor", "Xor", aten.bitwise_xor.Tensor, aten.bitwise_xor.Scalar)
_bitwise("BitwiseNot", "Not", aten.bitwise_not.default)


@translates(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def _where(t: Translator, condition: ir.Value, x: Operand, y: Operand) -> ir.Value:
    return t.where(condition, t.typed(x), t.typed(y))


@translates(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def _masked_fill(t: Translator, x: ir.Value, mask: ir.Value, value: Operand) -> ir.Value:
    return t.where(mask, t.typed(value), x)


@translates(aten.clamp.default, aten.clamp.Tensor, aten.hardtanh.default)
def _clamp(
    t: Translator, x: ir.Value, lowest: Operand | None = None, highest: Operand | None = None
) -> ir.Value:
    value = t.typed(x)
    if lowest is not None:
        value = t.arithmetic("Max", value, lowest)
    return value if highest is None else t.arithmetic("Min", value, highest)


@translates(aten.clamp_min.default, aten.clamp_min.Tensor)
def _clamp_min(t: Translator, x: ir.Value, lowest: Operand) -> ir.Value:
    return _clamp(t, x, lowest)


@translates(aten.clamp_max.default, aten.clamp_max.Tensor)
def _clamp_max(t: Translator, x: ir.Value, highest: Operand) -> ir.Value:
    return _clamp(t, x, None, highest)


@translates(aten.leaky_relu.default)
def _leaky_relu(t: Translator, x: ir.Value, negative_slope: float = 0.01) -> ir.Value:
    return t.op("LeakyRelu", x, alpha=float(negative_slope))


@translates(aten.sigmoid.default)
def _sigmoid(t: Translator, x: ir.Value) -> ir.Value:
    return _logistic(t, t.typed(x))


def _logistic(t: Translator, x: ir.Value) -> ir.Value:
    if not t.forms.tanh:
        return t.op("Sigmoid", x)
    return t.add(t.mul(t.op("Tanh", t.mul(x, 0.5)), 0.5), 0.5)


@translates(aten.silu.default)
def _silu(t: Translator, x: ir.Value) -> ir.Value:
    return t.mul(x, _logistic(t, x))


@translates(aten.silu_backward.default)
def _silu_backward(t: Translator, gradient: ir.Value, x: ir.Value) -> ir.Value:
    # d (x s) / dx = s + x s (1 - s), from s and x s of the forward pass
    s = _logistic(t, x)
    out = t.mul(x, s)
    if t.forms.late_derivatives:
        part = t.mul(gradient, out)
        return t.add(t.mul(s, t.sub(gradient, part)), part)
    return t.mul(gradient, t.add(t.mul(s, t.sub(1.0, out)), out))


@translates(aten.sigmoid_backward.default)
def _sigmoid_backward(t: Translator, gradient: ir.Value, s: ir.Value) -> ir.Value:
    return t.mul(gradient, t.mul(s, t.sub(1.0, s)))


@translates(aten.tanh_backward.default)
def _tanh_backward(t: Translator, gradient: ir.Value, out: ir.Value) -> ir.Value:
    return t.mul(gradient, t.sub(1.0, t.mul(out, out)))


@translates(aten.threshold_backward.default)
def _threshold_backward(
    t: Translator, gradient: ir.Value, x: ir.Value, threshold: Scalar
) -> ir.Value:
    return t.where(t.comparison("Greater", x, threshold), gradient, 0.0)


@translates(aten.isnan.default)
def _isnan(t: Translator, x: ir.Value) -> ir.Value:
    return t.op("IsNaN", x, dtype=ir.DataType.BOOL)


@translates(aten.log1p.default)
def _log1p(t: Translator, x: ir.Value) -> ir.Value:
    # As in `exportloss.loss.graph_ops.log1p`, this corrects the rounding error of 1 + x.
    y = t.add(x, 1.0)
    return t.add(t.op("Log", y), t.div(t.sub(x, t.sub(y, 1.0)), y))


@translates(aten.expm1.default)
def _expm1(t: Translator, x: ir.Value) -> ir.Value:
    # tanh is accurate near 0, exp(x) - 1 far from it.
    half = t.op("Tanh", t.mul(x, 0.5))
    near = t.div(t.mul(half, 2.0), t.sub(1.0, half))
    is_near = t.elementwise("Less", t.absolute(x), math.log(2), dtype=ir.DataType.BOOL)
    return t.where(is_near, near, t.sub(t.op("Exp", x), 1.0))
