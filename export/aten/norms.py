"""ATen's batch normalisation in elementary ONNX operators.

In training mode, ONNX's BatchNormalization differs from torch's (its running variance is biased),
and some runtimes lack it.
"""

# ruff: noqa: PLR0917 - the signatures are ATen's
from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir
import torch

from exportloss.export.aten.batch_norm_forms import (
    batch_axes,
    channels,
    normalize,
    normalize_backward,
)
from exportloss.export.aten.nodes import shape_of
from exportloss.export.aten.reductions import variance
from exportloss.export.aten.registry import Translator, translates
from exportloss.export.aten.shortcuts import scale_and_shift

__all__: list[str] = []

aten = torch.ops.aten


@translates(aten.native_batch_norm.default)
def _batch_norm(
    t: Translator,
    x: ir.Value,
    weight: ir.Value | None,
    bias: ir.Value | None,
    running_mean: ir.Value | None,
    running_var: ir.Value | None,
    training: bool,
    _momentum: float,
    eps: float,
) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
    """Normalize; `exportloss.export.step.batch_statistics` updates the running statistics."""
    if not training:
        assert running_mean is not None and running_var is not None
        scale = _inverse_deviation(t, running_var, eps)
        scale = scale if weight is None else t.mul(scale, weight)
        shift = t.mul(t.op("Neg", running_mean), scale)
        shift = shift if bias is None else t.add(shift, bias)
        return scale_and_shift(t, x, scale, shift), None, None
    if t.forms.folded_scale:
        return normalize(t, x, weight, bias, eps), None, None
    var, mean, deviation = variance(t, x, batch_axes(x))
    inverse = _inverse_deviation(t, var, eps)
    out = t.mul(deviation, inverse if weight is None else t.mul(inverse, channels(t, x, weight)))
    out = out if bias is None else t.add(out, channels(t, x, bias))
    flat = (shape_of(x)[1],)
    return out, t.reshape(mean, flat), t.reshape(inverse, flat)


@translates(aten.native_batch_norm_backward.default)
def _batch_norm_backward(
    t: Translator,
    gradient: ir.Value,
    x: ir.Value,
    weight: ir.Value | None,
    running_mean: ir.Value | None,
    running_var: ir.Value | None,
    _mean: ir.Value | None,
    _inverse: ir.Value | None,
    training: bool,
    eps: float,
    mask: Sequence[bool],
) -> tuple[ir.Value | None, ir.Value, ir.Value]:
    """Compute the gradients of Ioffe and Szegedy, arXiv 1502.03167, section 3."""
    if training and t.forms.folded_scale:
        return normalize_backward(t, gradient, x, weight, eps, with_x=mask[0])
    axes, flat = batch_axes(x), (shape_of(x)[1],)
    if training:
        var, _, deviation = variance(t, x, axes)
    else:
        assert running_mean is not None and running_var is not None
        var, deviation = channels(t, x, running_var), t.sub(x, channels(t, x, running_mean))
    inverse = _inverse_deviation(t, var, eps)
    scale = inverse if weight is None else t.mul(inverse, channels(t, x, weight))
    d_bias = t.reduce("ReduceSum", gradient, axes, keep=True)
    d_weight = t.mul(t.reduce("ReduceSum", t.mul(gradient, deviation), axes, keep=True), inverse)
    centred = gradient
    if training and mask[0]:
        # scale * (gradient - mean(gradient) - normalised * mean(gradient * normalised)); with the
        # scale last, an engine that fuses operators does not keep a scaled gradient as well.
        count = math.prod(shape_of(x)[axis] for axis in axes)
        slope = t.mul(t.mul(inverse, d_weight), -1 / count)
        shift = t.mul(d_bias, -1 / count)
        centred = t.add(t.add(gradient, t.mul(deviation, slope)), shift)
    d_x = t.mul(centred, scale) if mask[0] else None
    return d_x, t.reshape(d_weight, flat), t.reshape(d_bias, flat)


def _inverse_deviation(t: Translator, var: ir.Value, eps: float) -> ir.Value:
    return t.op("Reciprocal", t.op("Sqrt", t.add(var, eps)))
