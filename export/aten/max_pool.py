"""ATen's max-pooling in ONNX, forward and backward, without indices.

TensorRT's MaxPool returns none, and a backward pass with indices would need a scatter.
"""

# ruff: noqa: PLR0917 - the signatures are ATen's
from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from exportloss.export.aten.nodes import dtype_of, shape_of
from exportloss.export.aten.registry import Translator, translates

__all__: list[str] = []

aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class _Windows:
    """Pooling windows along one axis."""

    axis: int
    steps: int  # number of windows
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def reach(self) -> int:
        """Distance from the start of the first window to the end of the last one."""
        return (self.steps - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    def covers_edges(self, size: int) -> bool:
        """Whether a window that reaches beyond an end of the axis has the element at that end."""
        starts_inside = (self.steps - 1) * self.stride - self.padding < size
        return self.dilation == 1 and self.padding < self.kernel and starts_inside

    def places(self, size: int) -> NDArray[np.int64]:
        """Index of each element of each window, (steps, kernel), ends repeated beyond an end."""
        starts = np.arange(self.steps)[:, None] * self.stride - self.padding
        found = starts + np.arange(self.kernel) * self.dilation
        return np.asarray(np.clip(found, 0, size - 1), np.int64)


@translates(aten.max_pool2d_with_indices.default)
def _max_pool(
    t: Translator,
    x: ir.Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[ir.Value, None]:
    return _pool(t, x, _windows(t.shape, kernel, stride, padding, dilation)), None


@translates(aten.max_pool2d_with_indices_backward.default)
def _max_pool_backward(
    t: Translator,
    gradient: ir.Value,
    x: ir.Value,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
    _indices: None,
) -> ir.Value:
    """Pass each gradient to the first maximum of its window in row order, as torch does.

    The first maximum of a window is the first maximum of the first row whose maximum equals the
    window's. So the backward pass can treat the vertical and then the horizontal axis.
    """
    windows = _windows(shape_of(gradient), kernel, stride, padding, dilation)
    vertical, horizontal = windows
    of_rows = _pool(t, x, [horizontal])  # (B, C, H, Wo)
    if t.forms.pool_by_place and all(w.covers_edges(shape_of(x)[w.axis]) for w in windows):
        return _to_places(t, _to_places(t, gradient, of_rows, vertical), x, horizontal)
    to_rows = _first_hits(t, gradient, of_rows, _pool(t, x, windows), vertical)
    return _first_hits(t, to_rows, x, of_rows, horizontal)


def _windows(
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[_Windows]:
    # torch may give one number for both axes, and no stride if it equals the kernel
    settings = [(s[0], s[-1]) for s in (kernel, stride or kernel, padding, dilation)]
    return [_Windows(2 + i, out[2 + i], *(pair[i] for pair in settings)) for i in (0, 1)]


def _pool(t: Translator, x: ir.Value, windows: Sequence[_Windows]) -> ir.Value:
    if dtype_of(x) == ir.DataType.BFLOAT16:
        # In the opset that takes bfloat16, CUDA has no kernel for MaxPool.
        for one in windows:
            x = _maxima(t, x, one)
        return x
    still = [_Windows(axis, shape_of(x)[axis], 1, 1, 0, 1) for axis in (2, 3)]
    axes = [next((w for w in windows if w.axis == idle.axis), idle) for idle in still]
    starts = [w.padding for w in axes]
    ends = [max(0, w.reach - w.padding - shape_of(x)[w.axis]) for w in axes]
    if any(end >= w.kernel for end, w in zip(ends, axes, strict=True)):
        # With dilation and ceil_mode a window may need more padding than ONNX Runtime accepts.
        pads = list(zip(starts, ends, strict=True))
        x = t.pad(x, {2: pads[0], 3: pads[1]}, -math.inf)
        starts, ends = [0, 0], [0, 0]
    return t.op(
        "MaxPool",
        x,
        shape=(*shape_of(x)[:2], *(w.steps for w in axes)),
        kernel_shape=[w.kernel for w in axes],
        strides=[w.stride for w in axes],
        pads=[*starts, *ends],
        dilations=[w.dilation for w in axes],
    )


def _maxima(t: Translator, x: ir.Value, windows: _Windows) -> ir.Value:
    """Pool along one axis as the maximum over one slice per window element."""
    ends = (windows.padding, windows.reach - shape_of(x)[windows.axis] - windows.padding)
    padded = t.pad(x, {windows.axis: ends}, -math.inf)
    starts = [place * windows.dilation for place in range(windows.kernel)]
    length = (windows.steps - 1) * windows.stride + 1
    places = [t.slice(padded, windows.axis, i, i + length, windows.stride) for i in starts]
    return t.op("Max", *places)


def _first_hits(
    t: Translator, gradient: ir.Value, x: ir.Value, out: ir.Value, windows: _Windows
) -> ir.Value:
    """Return the gradient of pooling x to out along one axis; the first of equal maxima gets it."""
    axis, size = windows.axis, shape_of(x)[windows.axis]
    ends = (windows.padding, windows.reach - size - windows.padding)
    padded = t.pad(x, {axis: ends}, -math.inf)
    taken: ir.Value | None = None
    parts = []
    for place in range(windows.kernel):
        start = place * windows.dilation
        stop = start + (windows.steps - 1) * windows.stride + 1
        if stop <= windows.padding or start >= windows.padding + size:
            continue  # in the padding for every window
        seen = t.slice(padded, axis, start, stop, windows.stride)
        hit = t.elementwise("Equal", seen, out, dtype=ir.DataType.BOOL)
        first = hit if taken is None else t.op("And", hit, t.op("Not", taken))
        taken = hit if taken is None else t.op("Or", taken, hit)
        part = t.spread(t.where(first, gradient, 0.0), axis, windows.stride)
        before = start - windows.padding
        parts.append(t.pad(part, {axis: (before, size - before - shape_of(part)[axis])}))
    total = parts[0]
    for part in parts[1:]:
        total = t.add(total, part)
    return total


def _to_places(t: Translator, gradient: ir.Value, x: ir.Value, windows: _Windows) -> ir.Value:
    """Return what `_first_hits` does, in a few nodes, for windows that cover the axis's ends.

    A window that repeats the element at an end still gives it the gradient if it is the first
    maximum. The sum over windows is a product with a matrix of zeros and ones.
    """
    axis, size = windows.axis, shape_of(x)[windows.axis]
    places = windows.places(size)  # (steps, kernel)
    shape = list(shape_of(x))
    shape[axis : axis + 1] = places.shape
    seen = t.op("Gather", x, t.constant(places), shape=shape, axis=axis)
    shape[axis + 1] = 1
    first = t.op("ArgMax", seen, shape=shape, dtype=ir.DataType.INT64, axis=axis + 1, keepdims=1)
    order = np.arange(windows.kernel).reshape(-1, *(1 for _ in shape[axis + 2 :]))
    hit = t.op("Equal", first, t.constant(order), dtype=ir.DataType.BOOL)
    spread = t.where(hit, t.reshape(gradient, shape), 0.0)
    shape[axis : axis + 2] = [places.size]
    spread = t.reshape(spread, shape)
    matrix = np.eye(size, dtype=dtype_of(gradient).numpy())[places.reshape(-1)]  # (places, size)
    if axis == len(shape) - 1:
        return t.matmul(spread, t.constant(matrix))
    return t.matmul(t.constant(matrix.T), spread)
