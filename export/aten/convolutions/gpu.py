"""Forms of a convolution's gradients that are fast on a GPU, in operators that every runtime has.

Measured with ONNX Runtime on an H100, see docs/cuda.md. Forms that are fast on a CPU have too
little parallelism for a GPU: a product with a result of 16 x 32 elements, each a sum of 25,600
terms, keeps one multiprocessor in a hundred busy. So large maps are multiplied row by row, and the
products of all rows are summed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exportloss.export.aten.convolutions.geometry import Geometry
from exportloss.export.aten.nodes import shape_of
from exportloss.export.aten.registry import Translator

__all__ = ["columns_by_windows", "input_gradient_by_phases", "weight_gradient_by_rows"]


def weight_gradient_by_rows(
    t: Translator, gradient: ir.Value, x: ir.Value, geometry: Geometry
) -> ir.Value:
    """Compute the gradient of the weight with one product per kernel element and gradient row.

    Args:
        t: Builder of the graph.
        gradient: Gradient of the output, (B, O, Ho, Wo).
        x: Input of the convolution, (B, C, H, W).
        geometry: Settings of the convolution, which has no groups.

    Returns:
        Gradient of the weight, (O, C, kh, kw).
    """
    channels, outputs = shape_of(x)[1], shape_of(gradient)[1]
    rows = t.transpose(gradient, [0, 2, 1, 3])  # (B, Ho, O, Wo)
    columns = t.transpose(_padded(t, x, geometry), [0, 2, 3, 1])  # (B, H, W, C)
    places = []
    for window in _windows(t, columns, geometry, shape_of(gradient)[2:], axes=(1, 2)):
        found = t.reduce("ReduceSum", t.matmul(rows, window), [0, 1])
        places.append(t.reshape(found, (outputs, channels, 1)))
    return t.reshape(t.concat(places, 2), (outputs, channels, *geometry.kernel))


def columns_by_windows(
    t: Translator, x: ir.Value, geometry: Geometry, size: Sequence[int]
) -> ir.Value:
    """Lay out the elements of x that each window covers, by slices.

    Args:
        t: Builder of the graph.
        x: Input of the convolution, (B, C, H, W).
        geometry: Settings of the convolution.
        size: Height and width of its output.

    Returns:
        Columns, (B, groups, C / groups * kh * kw, Ho * Wo).
    """
    batch, channels = shape_of(x)[:2]
    cells, places = math.prod(size), math.prod(geometry.kernel)
    windows = [
        t.reshape(window, (batch, channels, 1, cells))
        for window in _windows(t, _padded(t, x, geometry), geometry, size, axes=(2, 3))
    ]
    shape = (batch, geometry.groups, channels // geometry.groups * places, cells)
    return t.reshape(t.concat(windows, 2), shape)


def input_gradient_by_phases(
    t: Translator, gradient: ir.Value, weight: ir.Value, geometry: Geometry, size: Sequence[int]
) -> ir.Value | None:
    """Compute the gradient of the input by convolving the gradient with the flipped kernel.

    With a stride of 2, for example, even rows of the input meet other rows of the kernel than odd
    rows. Each such phase is a set of channels of one convolution, interleaved afterwards.

    Args:
        t: Builder of the graph.
        gradient: Gradient of the output, (B, O, Ho, Wo).
        weight: Kernels, (O, C, kh, kw).
        geometry: Settings of the convolution.
        size: Height and width of its input.

    Returns:
        Gradient of the input, (B, C, H, W). None if the two strides differ, if the input is not
        the output times the stride in size, or for dilation, groups or some paddings.
    """
    (stride, other), (outputs, channels) = geometry.stride, shape_of(weight)[:2]
    whole = [cells * stride for cells in shape_of(gradient)[2:]]
    if stride != other or whole != list(size) or geometry.dilation != (1, 1) or geometry.groups > 1:
        return None
    pairs = list(zip(geometry.kernel, geometry.padding, strict=True))
    reaches = [_reach(stride, kernel, padding) for kernel, padding in pairs]
    if any(first > 0 or last < 0 for first, last in reaches):
        return None
    kernels = t.pad(weight, {2: (0, 1), 3: (0, 1)})  # index `kernel` selects zeros
    for axis, ((kernel, padding), reach) in enumerate(zip(pairs, reaches, strict=True), start=2):
        index = t.constant(_places(stride, kernel, padding, reach))
        gathered = list(shape_of(kernels))
        gathered[axis] = shape_of(index)[0]
        kernels = t.op("Gather", kernels, index, shape=gathered, axis=axis)
    height, width = (last - first + 1 for first, last in reaches)
    apart = t.reshape(kernels, (outputs, channels, stride, height, stride, width))
    phases = stride * stride * channels
    kernels = t.reshape(t.transpose(apart, [2, 4, 1, 0, 3, 5]), (phases, outputs, height, width))
    before, after = ([sign * reach[end] for reach in reaches] for sign, end in ((-1, 0), (1, 1)))
    found = t.op(
        "Conv",
        gradient,
        kernels,
        shape=(shape_of(gradient)[0], phases, *shape_of(gradient)[2:]),
        kernel_shape=(height, width),
        pads=(*before, *after),
    )
    if stride == 1:
        return found
    shape = (shape_of(gradient)[0], channels, *size)
    return t.op("DepthToSpace", found, shape=shape, blocksize=stride, mode="DCR")


def _reach(stride: int, kernel: int, padding: int) -> tuple[int, int]:
    """Return the lowest and highest row offset at which any phase reads the gradient."""
    offsets = [
        (phase + padding - row) // stride
        for phase in range(stride)
        for row in range(kernel)
        if (phase + padding - row) % stride == 0
    ]
    return min(offsets), max(offsets)


def _places(stride: int, kernel: int, padding: int, reach: tuple[int, int]) -> np.ndarray:
    """Return the kernel row for each phase and offset, or `kernel`, a row of zeros, if none."""
    first, last = reach
    rows = [
        phase + padding - stride * offset
        for phase in range(stride)
        for offset in range(first, last + 1)
    ]
    return np.array([row if 0 <= row < kernel else kernel for row in rows])


def _padded(t: Translator, x: ir.Value, geometry: Geometry) -> ir.Value:
    pad_y, pad_x = geometry.padding
    return t.pad(x, {2: (pad_y, pad_y), 3: (pad_x, pad_x)})


def _windows(
    t: Translator, padded: ir.Value, geometry: Geometry, size: Sequence[int], axes: tuple[int, int]
) -> list[ir.Value]:
    """Return, per kernel element, the elements of the padded map that it meets.

    Rows and columns of the map lie along `axes`.
    """
    if geometry.is_pointwise:
        return [padded]
    shape = list(shape_of(padded))
    for axis, cells in zip(axes, size, strict=True):
        shape[axis] = cells
    found = []
    for place in np.ndindex(*geometry.kernel):
        starts = [k * d for k, d in zip(place, geometry.dilation, strict=True)]
        ends = [
            start + (cells - 1) * step + 1
            for start, cells, step in zip(starts, size, geometry.stride, strict=True)
        ]
        bounds = (t.bounds(values) for values in (starts, ends, axes, geometry.stride))
        found.append(t.op("Slice", padded, *bounds, shape=shape))
    return found
