"""Batch normalisation in training with its scale as the last factor of the gradient.

Ioffe and Szegedy, arXiv 1502.03167, section 3, with n values a channel, deviation d = x - mean and
s = sqrt(var + eps): y = weight d / s + bias, and

    dx = weight / s (dy - mean(dy) - d / s mean(dy d / s)).

The convolution before takes over the factor, see `exportloss.export.aten.shortcuts.without_scale`.
What is in brackets is dy less another normalization of d, with means in the place of weight and
bias, so that one operator, where an engine has it, makes a pass over a map less in both directions.
All but maps are vectors (C,), for a node that only reshapes costs as much as one that computes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exportloss.export.aten.builder import kept_shape
from exportloss.export.aten.nodes import Normalization, dtype_of, shape_of
from exportloss.export.aten.reductions import variance
from exportloss.export.aten.registry import Translator

__all__ = ["batch_axes", "channels", "normalize", "normalize_backward"]


def normalize(
    t: Translator, x: ir.Value, weight: ir.Value | None, bias: ir.Value | None, eps: float
) -> ir.Value:
    """Return the normalization of x (B, C, ...) by its own mean and variance."""
    weight = t.filled(1, (shape_of(x)[1],), dtype_of(x)) if weight is None else weight
    bias = t.filled(0, (shape_of(x)[1],), dtype_of(x)) if bias is None else bias
    var, deviation = _statistics(t, x)
    if t.forms.normalization:
        t.normalizations.append(Normalization(x=x, weight=weight, var=var, eps=eps))
        return _by_operator(t, deviation, weight, bias, var, eps=eps)
    scale = t.div(weight, _root(t, x, eps))
    return t.add(t.mul(deviation, channels(t, x, scale)), channels(t, x, bias))


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
    axes = batch_axes(x)
    count = math.prod(shape_of(x)[axis] for axis in axes)
    var, deviation = _statistics(t, x)
    root, scale = _joined_factors(t, x, weight, eps) or _factors(t, x, weight, eps)
    shift = t.reduce("ReduceMean", gradient, axes)
    slope = t.div(t.reduce("ReduceMean", t.mul(gradient, deviation), axes), root)
    d_x = None
    if with_x:
        if t.forms.normalization:
            centred = t.sub(gradient, _by_operator(t, deviation, slope, shift, var, eps=eps))
        else:
            by_deviation = t.mul(deviation, channels(t, x, t.div(slope, root)))
            centred = t.sub(t.sub(gradient, channels(t, x, shift)), by_deviation)
        d_x = t.mul(centred, channels(t, x, scale))
    return d_x, t.mul(slope, count), t.mul(shift, count)


def _statistics(t: Translator, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """Return the variance (C,) and the deviations; the same nodes at every call."""
    var, _, deviation = variance(t, x, batch_axes(x))
    return t.reshape(var, (shape_of(x)[1],)), deviation


def _factors(
    t: Translator, x: ir.Value, weight: ir.Value | None, eps: float
) -> tuple[ir.Value, ir.Value]:
    """Return s and weight / s."""
    root = _root(t, x, eps)
    return root, t.op("Reciprocal", root) if weight is None else t.div(weight, root)


def _joined_factors(
    t: Translator, x: ir.Value, weight: ir.Value | None, eps: float
) -> tuple[ir.Value, ir.Value] | None:
    """Return what `_factors` does, computed for all normalizations so far at once.

    The backward pass begins when they are all written, so that this is done once.

    Returns:
        s and weight / s; None if no such normalization was written.
    """
    same = (n for n in t.normalizations if n.x is x and n.eps == eps and n.weight is weight)
    wanted = next(same, None)
    if wanted is None:
        return None
    if wanted.root is None:
        waiting = [n for n in t.normalizations if n.root is None and n.eps == eps]
        sizes = [shape_of(n.var)[0] for n in waiting]
        roots = t.op("Sqrt", t.add(t.concat([n.var for n in waiting], 0), eps))
        scales = t.div(t.concat([n.weight for n in waiting], 0), roots)
        by_output = t.reshape(scales, (sum(sizes), 1, 1, 1))
        for n, root, scale in zip(
            waiting, _cut(t, roots, sizes), _cut(t, by_output, sizes), strict=True
        ):
            n.root, n.scale = root, scale
    assert wanted.root is not None and wanted.scale is not None
    return wanted.root, wanted.scale


def _cut(t: Translator, x: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
    """Cut x along its first axis in a single node."""
    if len(sizes) == 1:
        return (x,)
    shapes = [(size, *shape_of(x)[1:]) for size in sizes]
    return t.ops("Split", (x, t.integers(sizes)), shapes, dtype_of(x), axis=0)


def _root(t: Translator, x: ir.Value, eps: float) -> ir.Value:
    return t.op("Sqrt", t.add(_statistics(t, x)[0], eps))


def _by_operator(
    t: Translator,
    deviation: ir.Value,
    weight: ir.Value,
    bias: ir.Value,
    var: ir.Value,
    *,
    eps: float,
) -> ir.Value:
    # Of deviations, whose mean is 0, rather than of x, which then need not be kept as well.
    mean = t.constant(np.zeros(shape_of(var), dtype_of(var).numpy()))
    return t.op(
        "BatchNormalization",
        *(deviation, weight, bias, mean, var),
        shape=shape_of(deviation),
        epsilon=float(eps),
    )


def batch_axes(x: ir.Value) -> list[int]:
    """Return the axes of x (B, C, ...) over which BatchNorm takes its statistics."""
    return [0, *range(2, len(shape_of(x)))]


def channels(t: Translator, x: ir.Value, vector: ir.Value) -> ir.Value:
    """Reshape a vector of one element per channel to broadcast against x."""
    return t.reshape(vector, kept_shape(x, batch_axes(x)))
