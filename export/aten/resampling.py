"""ATen's average pooling and upsampling in ONNX, forward and backward.

All of them are linear and separable: out = R x C^T with constant matrices R (for rows) and C (for
columns). The gradient with respect to x is R^T gradient C.
"""

# ruff: noqa: PLR0917 - the signatures are ATen's
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from exportloss.errors import ExportError
from exportloss.export.aten.nodes import dtype_of, shape_of
from exportloss.export.aten.registry import Translator, translates

__all__: list[str] = []

aten = torch.ops.aten

Matrix = NDArray[np.float32]  # (size of the output, size of the input)


@translates(aten.upsample_nearest2d.default)
def _nearest(t: Translator, x: ir.Value, _: Sequence[int], *scales: float | None) -> ir.Value:
    rows, columns = _repeats(shape_of(x), t.shape)
    if not rows:
        return _resample(t, x, _nearest_matrices(shape_of(x), t.shape, scales))
    if dtype_of(x) == ir.DataType.FLOAT:
        return t.op(
            "Resize",
            x,
            None,
            t.constant(np.array([1, 1, rows, columns], np.float32)),
            shape=t.shape,
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        )
    # Some providers have no Resize in half precision.
    batch, channels, height, width = shape_of(x)
    apart = t.reshape(x, (batch, channels, height, 1, width, 1))
    return t.reshape(t.expand(apart, (batch, channels, height, rows, width, columns)), t.shape)


@translates(aten.upsample_nearest2d_backward.default)
def _nearest_backward(
    t: Translator,
    gradient: ir.Value,
    _: Sequence[int],
    size: Sequence[int],
    *scales: float | None,
) -> ir.Value:
    rows, columns = _repeats(size, shape_of(gradient))
    if not rows:
        return _undo(t, gradient, _nearest_matrices(size, shape_of(gradient), scales))
    if dtype_of(gradient) == ir.DataType.FLOAT and not t.for_gpu:
        # Several times as fast as a sum over two axes of a reshaped map.
        factors = [rows, columns]
        mean = t.op("AveragePool", gradient, shape=size, kernel_shape=factors, strides=factors)
        return t.mul(mean, float(rows * columns))
    batch, channels, height, width = size
    apart = t.reshape(gradient, (batch, channels, height, rows, width, columns))
    return t.reduce("ReduceSum", apart, [3, 5])


@translates(aten.upsample_bilinear2d.default)
def _bilinear(
    t: Translator, x: ir.Value, _: Sequence[int], corners: bool, *scales: float | None
) -> ir.Value:
    return _resample(t, x, _bilinear_matrices(shape_of(x), t.shape, corners, scales))


@translates(aten.upsample_bilinear2d_backward.default)
def _bilinear_backward(
    t: Translator,
    gradient: ir.Value,
    _: Sequence[int],
    size: Sequence[int],
    corners: bool,
    *scales: float | None,
) -> ir.Value:
    return _undo(t, gradient, _bilinear_matrices(size, shape_of(gradient), corners, scales))


@translates(aten.avg_pool2d.default)
def _average(t: Translator, x: ir.Value, *settings: object) -> ir.Value:
    return _resample(t, x, _average_matrices(shape_of(x), t.shape, *settings))  # type: ignore[arg-type]


@translates(aten.avg_pool2d_backward.default)
def _average_backward(
    t: Translator, gradient: ir.Value, x: ir.Value, *settings: object
) -> ir.Value:
    matrices = _average_matrices(shape_of(x), shape_of(gradient), *settings)  # type: ignore[arg-type]
    return _undo(t, gradient, matrices)


@translates(aten._adaptive_avg_pool2d.default)
def _adaptive(t: Translator, x: ir.Value, _: Sequence[int]) -> ir.Value:
    return _resample(t, x, _adaptive_matrices(shape_of(x), t.shape))


@translates(aten._adaptive_avg_pool2d_backward.default)
def _adaptive_backward(t: Translator, gradient: ir.Value, x: ir.Value) -> ir.Value:
    return _undo(t, gradient, _adaptive_matrices(shape_of(x), shape_of(gradient)))


def _resample(t: Translator, x: ir.Value, matrices: Sequence[Matrix]) -> ir.Value:
    rows, columns = (t.typed(t.constant(matrix)) for matrix in (matrices[0], matrices[1].T))
    return t.matmul(t.matmul(rows, x), columns)


def _undo(t: Translator, gradient: ir.Value, matrices: Sequence[Matrix]) -> ir.Value:
    rows, columns = (t.typed(t.constant(matrix)) for matrix in (matrices[0].T, matrices[1]))
    return t.matmul(t.matmul(rows, gradient), columns)


def _repeats(source: Sequence[int], out: Sequence[int]) -> tuple[int, int]:
    """Return how often rows and columns are repeated; (0, 0) if the factors are not whole."""
    (height, rest_y), (width, rest_x) = (divmod(out[i], source[i]) for i in (2, 3))
    return (0, 0) if rest_y or rest_x else (height, width)


def _nearest_matrices(
    source: Sequence[int], out: Sequence[int], scales: Sequence[float | None]
) -> list[Matrix]:
    def matrix(size: int, steps: int, scale: float | None) -> Matrix:
        ratio = np.float32(1 / scale if scale else size / steps)
        index = np.floor(np.arange(steps, dtype=np.float32) * ratio).astype(int)
        rows: Matrix = np.eye(size, dtype=np.float32)[np.minimum(index, size - 1)]
        return rows

    return [matrix(source[2 + i], out[2 + i], _scale(scales, i)) for i in (0, 1)]


def _bilinear_matrices(
    source: Sequence[int], out: Sequence[int], corners: bool, scales: Sequence[float | None]
) -> list[Matrix]:
    def matrix(size: int, steps: int, scale: float | None) -> Matrix:
        place = np.arange(steps)
        if corners:  # the centres of the outermost cells coincide
            position = place * ((size - 1) / (steps - 1) if steps > 1 else 0.0)
        else:
            position = np.maximum((place + 0.5) * (1 / scale if scale else size / steps) - 0.5, 0)
        first = np.minimum(position.astype(int), size - 1)
        second = np.minimum(first + 1, size - 1)
        fraction = (position - first)[:, None]
        eye = np.eye(size)
        weights = eye[first] * (1 - fraction) + eye[second] * fraction
        found: Matrix = weights.astype(np.float32)
        return found

    return [matrix(source[2 + i], out[2 + i], _scale(scales, i)) for i in (0, 1)]


def _average_matrices(
    source: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor: int | None = None,
) -> list[Matrix]:
    if divisor is not None:
        raise ExportError(
            f"avg_pool2d with divisor_override={divisor} has no translation; use the default, None"
        )

    def matrix(size: int, steps: int, kernel: int, stride: int, padding: int) -> Matrix:
        found = np.zeros((steps, size), np.float32)
        for step in range(steps):
            start = step * stride - padding
            stop = min(start + kernel, size + padding)
            inside = slice(max(start, 0), min(stop, size))
            counted = stop - start if count_include_pad else inside.stop - inside.start
            found[step, inside] = 1 / counted
        return found

    settings = [(s[0], s[-1]) for s in (kernel, stride or kernel, padding)]
    return [matrix(source[2 + i], out[2 + i], *(pair[i] for pair in settings)) for i in (0, 1)]


def _adaptive_matrices(source: Sequence[int], out: Sequence[int]) -> list[Matrix]:
    def matrix(size: int, steps: int) -> Matrix:
        found = np.zeros((steps, size), np.float32)
        for step in range(steps):
            inside = slice(step * size // steps, -(-(step + 1) * size // steps))
            found[step, inside] = 1 / (inside.stop - inside.start)
        return found

    return [matrix(source[2 + i], out[2 + i]) for i in (0, 1)]


def _scale(scales: Sequence[float | None], axis: int) -> float | None:
    return scales[axis] if scales else None
