"""ATen's max-pooling in ONNX, forward and backward, with or without indices.

TensorRT's MaxPool returns none, and a backward pass with indices needs a scatter.
"""

# ruff: noqa: PLR0917 - the signatures are ATen's
from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch

from exportloss.export.aten.nodes import dtype_of, shape_of
from exportloss.export.aten.registry import Translator, translates

__all__: list[str] = []

aten = torch.ops.aten


# Indices of the maxima of columns, and of the rows before.
_Places = tuple[ir.Value, ir.Value]


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


@translates(aten.max_pool2d_with_indices.default)
def _max_pool(
    t: Translator,
    x: ir.Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[ir.Value, _Places | None]:
    windows = _windows(t.shape, kernel, stride, padding, dilation)
    out = _pool(t, x, windows)
    is_told = t.forms.pool_indices and dtype_of(x) == ir.DataType.FLOAT
    if not is_told or any(_pooling(x, [w])[1] is not None for w in windows):
        return out, None
    # With indices, ONNX Runtime's maxima of numbers and NaN are numbers: only places are taken.
    vertical, horizontal = windows
    of_rows, in_rows = _pool_with_places(t, x, horizontal)
    _, in_columns = _pool_with_places(t, of_rows, vertical)
    return out, (in_columns, in_rows)


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
    places: _Places | None,
) -> ir.Value:
    """Pass each gradient to the first maximum of its window in row order, as torch does.

    The first maximum of a window is the first maximum of the first row whose maximum equals the
    window's. So the backward pass can treat the vertical and then the horizontal axis.
    """
    windows = _windows(shape_of(gradient), kernel, stride, padding, dilation)
    vertical, horizontal = windows
    rows = (*shape_of(x)[:3], horizontal.steps)  # (B, C, H, Wo)
    if places is not None:
        in_columns, in_rows = places
        return _scattered(t, _scattered(t, gradient, in_columns, rows), in_rows, shape_of(x))
    of_rows = _pool(t, x, [horizontal])
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
    settings, pads = _pooling(x, windows)
    if pads is not None:
        x = t.pad(x, pads, -math.inf)
    return t.op("MaxPool", x, shape=_pooled(x, windows), **settings)


def _pool_with_places(t: Translator, x: ir.Value, windows: _Windows) -> tuple[ir.Value, ir.Value]:
    """Return maxima along one axis, and the index of each, the first, among all elements of x."""
    settings, _ = _pooling(x, [windows])
    shape, kinds = _pooled(x, [windows]), (dtype_of(x), ir.DataType.INT64)
    out, places = t.ops("MaxPool", (x,), [shape, shape], *kinds, **settings)
    return out, places


def _pooled(x: ir.Value, windows: Sequence[_Windows]) -> list[int]:
    steps = {window.axis: window.steps for window in windows}
    return [steps.get(axis, size) for axis, size in enumerate(shape_of(x))]


def _pooling(
    x: ir.Value, windows: Sequence[_Windows]
) -> tuple[dict[str, Any], dict[int, tuple[int, int]] | None]:
    """Return attributes of MaxPool, and the padding by axis that has to be a node of its own."""
    still = [_Windows(axis, shape_of(x)[axis], 1, 1, 0, 1) for axis in (2, 3)]
    axes = [next((w for w in windows if w.axis == idle.axis), idle) for idle in still]
    starts = [w.padding for w in axes]
    ends = [max(0, w.reach - w.padding - shape_of(x)[w.axis]) for w in axes]
    pads = None
    if any(end >= w.kernel for end, w in zip(ends, axes, strict=True)):
        # With dilation and ceil_mode a window may need more padding than ONNX Runtime accepts.
        pads = {2: (starts[0], ends[0]), 3: (starts[1], ends[1])}
        starts, ends = [0, 0], [0, 0]
    return {
        "kernel_shape": [w.kernel for w in axes],
        "strides": [w.stride for w in axes],
        "pads": [*starts, *ends],
        "dilations": [w.dilation for w in axes],
    }, pads


def _scattered(
    t: Translator, gradient: ir.Value, places: ir.Value, shape: Sequence[int]
) -> ir.Value:
    """Add each gradient to the element of that index in a map of the given shape."""
    size = math.prod(shape)
    flat = t.op(
        "ScatterElements",
        t.filled(0, (size,), dtype_of(gradient)),
        t.reshape(places, (-1,)),
        t.reshape(gradient, (-1,)),
        shape=(size,),
        axis=0,
        reduction="add",
    )
    return t.reshape(flat, shape)


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
