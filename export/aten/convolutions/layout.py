"""The input of a convolution, laid out so that a simpler product or convolution takes it.

For x (B, C, H, W) and a result of Ho x Wo cells.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from exportloss.export.aten.convolutions.geometry import Geometry
from exportloss.export.aten.convolutions.gpu import columns_by_windows
from exportloss.export.aten.nodes import dtype_of, shape_of
from exportloss.export.aten.registry import Translator

__all__ = ["column_parts", "columns_of", "phases_of"]


def phases_of(t: Translator, x: ir.Value, geometry: Geometry, size: Sequence[int]) -> ir.Value:
    """Turn the cells within a stride into channels, so that the convolution has a stride of 1.

    With a stride of 2, for example, even and odd rows and columns give four phases of the image.

    Args:
        t: Builder of the graph.
        x: Input of the convolution, (B, C, H, W).
        geometry: Settings of the convolution, whose kernel spans whole strides.
        size: Height and width of its output.

    Returns:
        Phases, (B, s_y * s_x * C, Ho + k_y / s_y - 1, Wo + k_x / s_x - 1).
    """
    batch, channels, *sizes = shape_of(x)
    s_y, s_x = geometry.stride
    rows, columns = (cells + k - 1 for cells, k in zip(size, geometry.steps, strict=True))
    (pad_y, pad_x), (size_y, size_x) = geometry.padding, sizes
    padded = t.pad(
        x,
        {2: (pad_y, rows * s_y - size_y - pad_y), 3: (pad_x, columns * s_x - size_x - pad_x)},
    )
    shape = (batch, s_y * s_x * channels, rows, columns)
    if s_y == s_x:
        return t.op("SpaceToDepth", padded, shape=shape, blocksize=s_y)
    apart = t.reshape(padded, (batch, channels, rows, s_y, columns, s_x))
    return t.reshape(t.transpose(apart, [0, 3, 5, 1, 2, 4]), shape)


def columns_of(t: Translator, x: ir.Value, geometry: Geometry, size: Sequence[int]) -> ir.Value:
    """Lay out the elements of x that each window covers.

    This takes a convolution with one-hot kernels, or slices on a GPU, where a convolution with
    groups is slow.

    Args:
        t: Builder of the graph.
        x: Input of the convolution, (B, C, H, W).
        geometry: Settings of the convolution.
        size: Height and width of its output.

    Returns:
        Columns, (B, groups, C / groups * kh * kw, Ho * Wo).
    """
    if t.for_gpu:
        return columns_by_windows(t, x, geometry, size)
    batch, channels = shape_of(x)[:2]
    places = math.prod(geometry.kernel)
    shape = (batch, geometry.groups, channels // geometry.groups * places, math.prod(size))
    if geometry.is_pointwise:
        return t.reshape(x, shape)
    return t.reshape(t.concat(column_parts(t, x, geometry, size), 2), shape)


def column_parts(
    t: Translator, x: ir.Value, geometry: Geometry, size: Sequence[int]
) -> list[ir.Value]:
    """Lay out the elements of x that each window covers, by convolutions with one-hot kernels.

    Args:
        t: Builder of the graph.
        x: Input of the convolution, (B, C, H, W).
        geometry: Settings of the convolution.
        size: Height and width of its output.

    Returns:
        Parts of the kh * kw elements of a window, (B, C, part, Ho, Wo).
    """
    batch, channels = shape_of(x)[:2]
    places = math.prod(geometry.kernel)
    one_hot = np.eye(places, dtype=dtype_of(x).numpy()).reshape(places, 1, *geometry.kernel)
    attributes = dataclasses.replace(geometry, groups=channels).attributes()
    parts = []
    # A graph for one engine on a CPU takes no account of WebGPU.
    cuts = _whole_fours(places) if t.provider == "any" else []
    for some in np.split(one_hot, cuts):
        count = len(some)
        kernels = t.op(
            "Tile",
            t.constant(some),
            t.integers([channels, 1, 1, 1]),
            shape=(channels * count, 1, *geometry.kernel),
        )
        part = t.op("Conv", x, kernels, shape=(batch, channels * count, *size), **attributes)
        parts.append(t.reshape(part, (batch, channels, count, *size)))
    return parts


def _whole_fours(places: int) -> list[int]:
    """Return where to split the outputs of a group into parts of 1 to 4 or a multiple of 4.

    ONNX Runtime's WebGPU provider gives wrong results for convolutions with other group sizes.
    """
    return [places - places % 4] if places > 4 and places % 4 else []
