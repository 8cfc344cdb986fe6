"""Batch normalisation in training with its scale as the last factor of the gradient.

Ioffe and Szegedy, arXiv 1502.03167, section 3, with n values a channel, deviation d = x - mean and
s = sqrt(var + eps): y = weight d / s + bias, and

    dx = weight / s (dy - mean(dy) - d / s mean(dy d / s)).

The convolution before takes over the factor, see `exportloss.export.aten.shortcuts.without_scale`.
What is in brackets is dy less another normalization of x, with means in the place of weight and
bias, so that one operator, where an engine has it, makes a pass over a map less in both directions.
All but maps are vectors (C,), for a node that only reshapes costs as much as one that computes.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from exportloss.export.aten.nodes import dtype_of, shape_of
from exportloss.export.aten.reductions import variance
from exportloss.export.aten.registry import Translator

__all__ = ["normalize", "normalize_backward"]


def normalize(
    t: Translator, x: ir.Value, weight: ir.Value | None, bias: ir.Value | None, eps: float
) -> ir.Value:
    """Return the normalization of x (B, C, ...) by its own mean and variance."""
    weight = t.filled(1, (shape_of(x)[1],), dtype_of(x)) if weight is None else weight
    bias = t.filled(0, (shape_of(x)[1],), dtype_of(x)) if bias is None else bias
    if t.forms.normalization:
        return _by_operator(t, x, weight, bias, eps)
    _, _, deviation = _statistics(t, x)
    scale = t.div(weight, _root(t, x, eps))
    return t.add(t.mul(deviation, _channels(t, x, scale)), _channels(t, x, bias))


def normalize_backward(
    t: Translator,
    gradient: ir.Value,
    x: ir.Value,
    weight: ir.Value | None,
    eps: float,
    *,
    with_x: bool,
) -> tuple[ir.Value | None, ir.Value, ir.Value]:
    """Return the gradients of x, unless not wanted, of the weight and of the bias."""
    axes = [0, *range(2, len(shape_of(x)))]
    count = math.prod(shape_of(x)[axis] for axis in axes)
    _, _, deviation = _statistics(t, x)
    root = _root(t, x, eps)
    shift = t.reduce("ReduceMean", gradient, axes)
    slope = t.div(t.reduce("ReduceMean", t.mul(gradient, deviation), axes), root)
    d_x = None
    if with_x:
        if t.forms.normalization:
            centred = t.sub(gradient, _by_operator(t, x, slope, shift, eps))
        else:
            by_deviation = t.mul(deviation, _channels(t, x, t.div(slope, root)))
            centred = t.sub(t.sub(gradient, _channels(t, x, shift)), by_deviation)
        scale = t.op("Reciprocal", root) if weight is None else t.div(weight, root)
        d_x = t.mul(centred, _channels(t, x, scale))
    return d_x, t.mul(slope, count), t.mul(shift, count)


def _statistics(t: Translator, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return variance and mean as vectors, and the deviations; the same nodes at every call."""
    var, mean, deviation = variance(t, x, [0, *range(2, len(shape_of(x)))])
    channels = (shape_of(x)[1],)
    return t.reshape(var, channels), t.reshape(mean, channels), deviation


def _root(t: Translator, x: ir.Value, eps: float) -> ir.Value:
    return t.op("Sqrt", t.add(_statistics(t, x)[0], eps))


def _by_operator(
    t: Translator, x: ir.Value, weight: ir.Value, bias: ir.Value, eps: float
) -> ir.Value:
    var, mean, _ = _statistics(t, x)
    return t.op(
        "BatchNormalization", x, weight, bias, mean, var, shape=shape_of(x), epsilon=float(eps)
    )


def _channels(t: Translator, x: ir.Value, vector: ir.Value) -> ir.Value:
    """Reshape a vector of one element per channel to broadcast against x."""
    return t.reshape(vector, [1 if axis != 1 else size for axis, size in enumerate(shape_of(x))])
