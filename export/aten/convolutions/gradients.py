"""Gradients of a convolution, for which ONNX has no operator.

Each has several equivalent forms; the shapes, and the engine by `exportloss.export.aten.forms`,
select the one measured to be the fastest. Shapes are x (B, C, H, W), weight (O, C / g, kh, kw) and
gradient (B, O, Ho, Wo).
"""

from __future__ import annotations

import math

import onnx_ir as ir

from exportloss.export.aten.convolutions.geometry import Geometry
from exportloss.export.aten.convolutions.gpu import (
    input_gradient_by_phases,
    weight_gradient_by_rows,
)
from exportloss.export.aten.convolutions.layout import column_parts, columns_of, phases_of
from exportloss.export.aten.nodes import shape_of
from exportloss.export.aten.registry import Translator

__all__ = ["input_gradient", "weight_gradient"]

_MANY_CELLS = 6400  # at least, for a GPU to compute the weight gradient faster row by row


def input_gradient(
    t: Translator, gradient: ir.Value, x: ir.Value, weight: ir.Value, geometry: Geometry
) -> ir.Value:
    """Return the gradient of x, of which only the shape is used."""
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


def weight_gradient(
    t: Translator, gradient: ir.Value, x: ir.Value, weight: ir.Value, geometry: Geometry
) -> ir.Value:
    """Return the gradient of the weight, of which only the shape is used."""
    if t.for_gpu:
        return _weight_gradient_on_gpu(t, gradient, x, weight, geometry)
    if geometry.is_pointwise:
        return t.reshape(_products(t, _flat(t, gradient), _flat(t, x)), shape_of(weight))
    if geometry.stride == (1, 1) and geometry.groups == 1:
        if 0 < t.forms.stacked_channels <= shape_of(x)[1] and geometry.keeps_size(3):
            return _by_stacked_shifts(t, gradient, x, geometry)
        if not t.forms.columns:
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


def _by_stacked_shifts(
    t: Translator, gradient: ir.Value, x: ir.Value, geometry: Geometry
) -> ir.Value:
    """Compute one product of all shifts of x by columns with all shifts of the gradient by rows."""
    batch, outputs = shape_of(gradient)[:2]
    channels, cells = shape_of(x)[1], math.prod(shape_of(x)[2:])
    by_row = t.concat([t.pad(gradient, {2: (i - 1, 1 - i)}) for i in (0, 1, 2)], 1)
    by_column = t.concat([t.pad(x, {3: (1 - j, j - 1)}) for j in (0, 1, 2)], 1)
    found = _products(
        t,
        t.reshape(by_row, (batch, 3 * outputs, cells)),
        t.reshape(by_column, (batch, 3 * channels, cells)),
    )
    found = t.transpose(t.reshape(found, (3, outputs, 3, channels)), [1, 3, 0, 2])
    return t.reshape(found, (outputs, channels, *geometry.kernel))


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
    if groups == 1 and not t.for_gpu:
        channels = shape_of(x)[1]
        found = []
        for part in column_parts(t, x, geometry, size):
            count = shape_of(part)[2]
            columns = t.reshape(part, (batch, channels * count, math.prod(size)))
            products = _products(t, _flat(t, gradient), columns)
            found.append(t.reshape(products, (outputs, channels, count)))
        return t.reshape(t.concat(found, 2), shape_of(weight))
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
