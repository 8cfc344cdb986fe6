"""ATen's convolution and its backward pass, for which ONNX has no operator.

Each gradient has several equivalent forms; the shapes select the one measured to be the fastest in
ONNX Runtime. Shapes are x (B, C, H, W), weight (O, C / g, kh, kw) and gradient (B, O, Ho, Wo).
"""

# ruff: noqa: PLR0917 - the signatures are ATen's
from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir
import torch

from exportloss.errors import ExportError
from exportloss.export.aten.convolution_geometry import Geometry
from exportloss.export.aten.convolution_layout import columns_of, phases_of
from exportloss.export.aten.gpu_convolution import (
    input_gradient_by_phases,
    weight_gradient_by_rows,
)
from exportloss.export.aten.nodes import shape_of
from exportloss.export.aten.registry import Translator, translates

__all__: list[str] = []

aten = torch.ops.aten

_FEW_CHANNELS = 4  # at most: an image, possibly with an alpha channel
_MANY_CELLS = 6400  # at least, for a GPU to compute the weight gradient faster row by row


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
    if outputs // groups <= cells and t.depends_on_threads(terms, cells):
        return _as_product(t, x, weight, bias, geometry)
    is_trained = t.array_of(weight) is None
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
    return (
        _input_gradient(t, gradient, x, weight, geometry) if mask[0] else None,
        _weight_gradient(t, gradient, x, weight, geometry) if mask[1] else None,
        t.reduce("ReduceSum", gradient, [0, 2, 3]) if mask[2] else None,
    )


def _input_gradient(
    t: Translator, gradient: ir.Value, x: ir.Value, weight: ir.Value, geometry: Geometry
) -> ir.Value:
    if geometry.is_pointwise:
        channels = t.transpose(t.reshape(weight, shape_of(weight)[:2]), [1, 0])  # (C, O)
        return t.reshape(t.matmul(channels, _flat(t, gradient)), shape_of(x))
    if t.for_gpu:
        found = input_gradient_by_phases(t, gradient, weight, geometry, shape_of(x)[2:])
        if found is not None:
            return found
    # Rows and columns of x that no window reaches, by which ConvTranspose has to extend its output.
    unreached = [
        size + 2 * p - d * (k - 1) - 1 - s * (steps - 1)
        for size, steps, k, s, p, d in zip(
            shape_of(x)[2:],
            shape_of(gradient)[2:],
            geometry.kernel,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            strict=True,
        )
    ]
    attributes = geometry.attributes()
    if any(unreached):
        attributes["output_padding"] = unreached
    return t.op("ConvTranspose", gradient, weight, shape=shape_of(x), **attributes)


def _weight_gradient(
    t: Translator, gradient: ir.Value, x: ir.Value, weight: ir.Value, geometry: Geometry
) -> ir.Value:
    if t.for_gpu:
        return _weight_gradient_on_gpu(t, gradient, x, weight, geometry)
    if geometry.is_pointwise:
        return t.reshape(_products(t, _flat(t, gradient), _flat(t, x)), shape_of(weight))
    if geometry.groups > 1:
        return _by_columns(t, gradient, x, weight, geometry)
    if geometry.stride == (1, 1):
        return _by_shifts(t, gradient, x, geometry)
    if geometry.has_phases:
        return _by_phases(t, gradient, x, weight, geometry)
    return _by_columns(t, gradient, x, weight, geometry)


def _weight_gradient_on_gpu(
    t: Translator, gradient: ir.Value, x: ir.Value, weight: ir.Value, geometry: Geometry
) -> ir.Value:
    if geometry.groups > 1 or math.prod(shape_of(gradient)[2:]) < _MANY_CELLS:
        return _by_columns(t, gradient, x, weight, geometry)
    if geometry.has_phases:
        return _by_phases(t, gradient, x, weight, geometry)
    return weight_gradient_by_rows(t, gradient, x, geometry)


def _by_shifts(t: Translator, gradient: ir.Value, x: ir.Value, geometry: Geometry) -> ir.Value:
    """Compute one matrix product per kernel element, with contiguous slices of the padded x.

    Once the gradient's rows are padded to the length of the padded x's, a shift of the window is a
    shift of the flat map.
    """
    (pad_y, pad_x), (step_y, step_x) = geometry.padding, geometry.dilation
    padded = t.pad(x, {2: (pad_y, pad_y), 3: (pad_x, pad_x)})
    row = shape_of(padded)[3]
    _, outputs, height, width = shape_of(gradient)
    rows = _flat(t, t.pad(gradient, {3: (0, row - width)}))
    length = (height - 1) * row + width
    rows = t.slice(rows, 2, 0, length)  # (B, O, L)
    flat = _flat(t, padded)
    places = []
    for i in range(geometry.kernel[0]):
        for j in range(geometry.kernel[1]):
            start = i * step_y * row + j * step_x
            shifted = t.slice(flat, 2, start, start + length)  # (B, C, L)
            places.append(t.reshape(_products(t, rows, shifted), (outputs, shape_of(x)[1], 1)))
    return t.reshape(t.concat(places, 2), (outputs, shape_of(x)[1], *geometry.kernel))


def _by_phases(
    t: Translator, gradient: ir.Value, x: ir.Value, weight: ir.Value, geometry: Geometry
) -> ir.Value:
    (outputs, channels), (s_y, s_x) = shape_of(weight)[:2], geometry.stride
    k_y, k_x = geometry.steps
    phases = phases_of(t, x, geometry, shape_of(gradient)[2:])
    by_place = weight_gradient_by_rows if t.for_gpu else _by_shifts
    found = by_place(t, gradient, phases, Geometry((k_y, k_x), (1, 1), (0, 0), (1, 1), 1))
    found = t.reshape(found, (outputs, s_y, s_x, channels, k_y, k_x))
    return t.reshape(t.transpose(found, [0, 3, 4, 1, 5, 2]), shape_of(weight))


def _by_columns(
    t: Translator, gradient: ir.Value, x: ir.Value, weight: ir.Value, geometry: Geometry
) -> ir.Value:
    (batch, outputs), size = shape_of(gradient)[:2], shape_of(gradient)[2:]
    groups = geometry.groups
    wanted = t.reshape(gradient, (batch, groups, outputs // groups, math.prod(size)))
    return t.reshape(_products(t, wanted, columns_of(t, x, geometry, size)), shape_of(weight))


def _products(t: Translator, gradient: ir.Value, x: ir.Value) -> ir.Value:
    """Multiply each channel of the gradient (B, ..., O, L) by each channel of x (B, ..., C, L).

    Returns:
        Products summed over images and cells, (..., O, C).
    """
    if shape_of(gradient)[-2] < shape_of(x)[-2]:
        # ONNX Runtime splits the longer side of a product across threads. If that is the columns,
        # the order of summation over L depends on the number of threads.
        return t.swap(_products(t, x, gradient))
    return t.reduce("ReduceSum", t.matmul(gradient, t.swap(x)), [0])


def _flat(t: Translator, x: ir.Value) -> ir.Value:
    """Reshape (B, C, H, W) to (B, C, H * W)."""
    batch, channels, height, width = shape_of(x)
    return t.reshape(x, (batch, channels, height * width))
