"""ATen's convolution and its backward pass, for which ONNX has no operator.

Shapes are x (B, C, H, W), weight (O, C / g, kh, kw) and gradient (B, O, Ho, Wo).
"""

# ruff: noqa: PLR0917 - the signatures are ATen's
from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir
import torch

from exportloss.errors import ExportError
from exportloss.export.aten.builder import TERMS_AT_A_TIME
from exportloss.export.aten.convolutions.geometry import Geometry
from exportloss.export.aten.convolutions.gradients import (
    input_gradient,
    weight_gradient,
)
from exportloss.export.aten.convolutions.layout import columns_of, phases_of
from exportloss.export.aten.nodes import shape_of
from exportloss.export.aten.registry import Translator, translates
from exportloss.export.aten.shortcuts import without_scale

__all__: list[str] = []

aten = torch.ops.aten

_FEW_CHANNELS = 4  # at most: an image, possibly with an alpha channel
_FEW_OUTPUTS = 8  # at most: objectness, one channel per anchor


def _geometry(
    weight: ir.Value,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    groups: int,
) -> Geometry:
    if len(shape_of(weight)) != 4 or transposed:
        kind = "transposed" if transposed else f"{len(shape_of(weight)) - 2}-dimensional"
        raise ExportError(f"a {kind} convolution has no translation; use torch.nn.Conv2d")

    def pair(values: Sequence[int]) -> tuple[int, int]:
        return (values[0], values[-1])  # torch may give one number for both

    return Geometry(
        (shape_of(weight)[2], shape_of(weight)[3]),
        pair(stride),
        pair(padding),
        pair(dilation),
        groups,
    )


@translates(aten.convolution.default)
def _convolution(
    t: Translator,
    x: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    _output_padding: Sequence[int],
    groups: int,
) -> ir.Value:
    geometry = _geometry(weight, stride, padding, dilation, transposed, groups)
    outputs, *kernel = shape_of(weight)
    terms, cells = math.prod(kernel), math.prod(t.shape[2:])
    is_trained = t.array_of(weight) is None
    if outputs // groups <= cells and t.depends_on_threads(terms, cells):
        return _as_product(t, x, weight, bias, geometry)
    if is_trained and geometry.is_pointwise and t.forms.pointwise_product:
        return _as_product(t, x, weight, bias, geometry)
    if t.repeatable and is_trained and geometry.has_phases and shape_of(x)[1] <= _FEW_CHANNELS:
        return _over_phases(t, x, weight, bias, geometry)
    return t.op("Conv", x, weight, bias, shape=t.shape, **geometry.attributes())


def _over_phases(
    t: Translator, x: ir.Value, weight: ir.Value, bias: ir.Value | None, geometry: Geometry
) -> ir.Value:
    """Write a convolution as one of stride 1 over phases, which the weight gradient needs anyway.

    This is faster if there are few channels, as in an image.
    """
    outputs, channels = shape_of(weight)[:2]
    (s_y, s_x), (k_y, k_x) = geometry.stride, geometry.steps
    apart = t.reshape(weight, (outputs, channels, k_y, s_y, k_x, s_x))
    kernels = t.reshape(
        t.transpose(apart, [0, 3, 5, 1, 2, 4]), (outputs, s_y * s_x * channels, k_y, k_x)
    )
    phases = phases_of(t, x, geometry, t.shape[2:])
    return t.op("Conv", phases, kernels, bias, shape=t.shape, kernel_shape=(k_y, k_x))


def _as_product(
    t: Translator, x: ir.Value, weight: ir.Value, bias: ir.Value | None, geometry: Geometry
) -> ir.Value:
    """Write a convolution as a matrix product, whose order of summation we control."""
    outputs, *kernel = shape_of(weight)
    groups = geometry.groups
    if geometry.is_pointwise:
        batch, channels, *sizes = shape_of(x)
        cells = math.prod(sizes)
        if outputs <= _FEW_OUTPUTS and channels % TERMS_AT_A_TIME == 0:
            # Sums of sums that are not split: with so few rows, a product that is not split among
            # threads takes several times as long.
            parts = (channels // TERMS_AT_A_TIME, TERMS_AT_A_TIME)
            rows = t.transpose(t.reshape(weight, (outputs, *parts)), [1, 0, 2])
            product = t.matmul(rows, t.reshape(x, (batch, *parts, cells)))
            out = t.reduce("ReduceSum", product, [1])
        else:
            rows = t.reshape(weight, (outputs, channels))
            out = t.matmul(rows, t.reshape(x, (batch, channels, cells)))
        out = t.reshape(out, t.shape)
        return out if bias is None else t.add(out, t.reshape(bias, (outputs, 1, 1)))
    kernels = t.reshape(weight, (groups, outputs // groups, math.prod(kernel)))
    out = t.reshape(t.matmul(kernels, columns_of(t, x, geometry, t.shape[2:])), t.shape)
    return out if bias is None else t.add(out, t.reshape(bias, (outputs, 1, 1)))


@translates(aten.convolution_backward.default)
def _convolution_backward(
    t: Translator,
    gradient: ir.Value,
    x: ir.Value,
    weight: ir.Value,
    _bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    _output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[ir.Value | None, ...]:
    geometry = _geometry(weight, stride, padding, dilation, transposed, groups)
    d_bias = t.reduce("ReduceSum", gradient, [0, 2, 3]) if mask[2] else None
    d_x = d_weight = None
    scale = None
    if t.forms.folded_scale:
        gradient, scale = without_scale(gradient)
        scale = scale and t.reshape(scale, (shape_of(gradient)[1], 1, 1, 1))
    if mask[0]:
        scaled = weight if scale is None else t.mul(weight, scale)
        d_x = input_gradient(t, gradient, x, scaled, geometry)
    if mask[1]:
        d_weight = weight_gradient(t, gradient, x, weight, geometry)
        d_weight = d_weight if scale is None else t.mul(d_weight, scale)
    return d_x, d_weight, d_bias
