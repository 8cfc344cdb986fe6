"""ATen's max-pooling in ONNX, forward and backward, without indices.

TensorRT's MaxPool gives none, and ONNX Runtime's backward pass would need a scatter.
"""

# ruff: noqa: PLR0917 - the signatures are ATen's
from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import onnx_ir as ir
import torch

from exportloss.export.aten.builder import dtype_of, shape_of
from exportloss.export.aten.registry import Translator, translates

__all__: list[str] = []

aten = torch.ops.aten


@dataclasses.dataclass(frozen=True)
class _Windows:
    """Pooling windows along one axis."""

    axis: int
    steps: int  # size of the output
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def reach(self) -> int:
        """How far the last window reaches, from where the first one begins."""
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
    """Give each gradient to the first maximum of its window, row by row, as torch does.

    A window's first maximum lies in the first row whose own maximum is the window's, and is that
    row's first maximum: so columns and rows can be pooled, and undone, one after the other.
    """
    windows = _windows(shape_of(gradient), kernel, stride, padding, dilation)
    vertical, horizontal = windows
    of_rows = _pool(t, x, [horizontal])  # (B, C, H, Wo)
    to_rows = _first_hits(t, gradient, of_rows, _pool(t, x, windows), vertical)
    return _first_hits(t, to_rows, x, of_rows, horizontal)


def _windows(
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[_Windows]:
    # torch gives one number where both axes are alike, and no stride where it is the kernel
    settings = [(s[0], s[-1]) for s in (kernel, stride or kernel, padding, dilation)]
    return [_Windows(2 + i, out[2 + i], *(pair[i] for pair in settings)) for i in (0, 1)]


def _pool(t: Translator, x: ir.Value, windows: Sequence[_Windows]) -> ir.Value:
    if dtype_of(x) == ir.DataType.BFLOAT16:
        # The opset that takes bfloat16 has a MaxPool that CUDA knows in no type.
        for one in windows:
            x = _maxima(t, x, one)
        return x
    still = [_Windows(axis, shape_of(x)[axis], 1, 1, 0, 1) for axis in (2, 3)]
    axes = [next((w for w in windows if w.axis == idle.axis), idle) for idle in still]
    starts = [w.padding for w in axes]
    ends = [max(0, w.reach - w.padding - shape_of(x)[w.axis]) for w in axes]
    if any(end >= w.kernel for end, w in zip(ends, axes, strict=True)):
        # With dilation and ceil_mode a window may reach farther than ONNX Runtime pads.
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
    """Pooling along one axis, as the maximum of what lies at each place of the windows."""
    ends = (windows.padding, windows.reach - shape_of(x)[windows.axis] - windows.padding)
    padded = t.pad(x, {windows.axis: ends}, -math.inf)
    starts = [place * windows.dilation for place in range(windows.kernel)]
    length = (windows.steps - 1) * windows.stride + 1
    places = [t.slice(padded, windows.axis, i, i + length, windows.stride) for i in starts]
    return t.op("Max", *places)


def _first_hits(
    t: Translator, gradient: ir.Value, x: ir.Value, out: ir.Value, windows: _Windows
) -> ir.Value:
    """Gradient of pooling x to out along one axis; of equal maxima the first takes all."""
    axis, size = windows.axis, shape_of(x)[windows.axis]
    ends = (windows.padding, windows.reach - size - windows.padding)
    padded = t.pad(x, {axis: ends}, -math.inf)
    taken: ir.Value | None = None
    shares = []
    for place in range(windows.kernel):
        start = place * windows.dilation
        stop = start + (windows.steps - 1) * windows.stride + 1
        if stop <= windows.padding or start >= windows.padding + size:
            continue  # this place of every window lies in the padding
        seen = t.slice(padded, axis, start, stop, windows.stride)
        hit = t.elementwise("Equal", seen, out, dtype=ir.DataType.BOOL)
        first = hit if taken is None else t.op("And", hit, t.op("Not", taken))
        taken = hit if taken is None else t.op("Or", taken, hit)
        share = t.spread(t.where(first, gradient, 0.0), axis, windows.stride)
        before = start - windows.padding
        shares.append(t.pad(share, {axis: (before, size - before - shape_of(share)[axis])}))
    total = shares[0]
    for share in shares[1:]:
        total = t.add(total, share)
    return total
