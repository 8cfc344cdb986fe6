"""Sums, joins and cuts in forms that are fast on a GPU, in operators that every runtime has.

Measured with ONNX Runtime's CUDA provider on an H100, see docs/cuda.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:  # the builder imports this module
    from exportloss.export.aten.builder import Builder

__all__ = ["cut", "join", "needs_table", "reduce"]

_LONG_AXIS = 4096  # elements along an axis
_SUMMED = 16  # inputs of one Sum


def reduce(t: Builder, op_type: str, x: ir.Value, axes: Sequence[int], *, keep: bool) -> ir.Value:
    """Reduce the axes that are contiguous in memory first: CUDA is eight times slower at others.

    Args:
        t: Builder of the graph.
        op_type: ReduceSum or ReduceMean.
        x: Tensor of any shape.
        axes: Axes to reduce, ascending.
        keep: Whether the axes stay, with size 1.
    """
    apart = max((axis for axis in range(len(x.shape or ())) if axis not in axes), default=-1)
    for together in (True, False):
        part = [axis for axis in axes if (axis > apart) == together]
        if part:
            x = t.reduce_at_once(op_type, x, part, keep=keep)
    return x


def needs_table(sizes: Sequence[int]) -> bool:
    """Return whether CUDA's Concat and Split would use a long table of positions on the axis.

    They do if the parts differ in size. The table is built on the host and copied to the device in
    every run, at 8 bytes per position, and its memory cannot be allocated during the capture of a
    CUDA graph.
    """
    return len(set(sizes)) > 1 and sum(sizes) >= _LONG_AXIS


def join(t: Builder, values: Sequence[ir.Value], sizes: Sequence[int], axis: int) -> ir.Value:
    """Join floating-point values along an axis as a sum, each padded with zeros to the full size.

    Args:
        t: Builder of the graph.
        values: Values to join.
        sizes: Size of each value along the axis.
        axis: Axis, not negative.
    """
    if len(values) > _SUMMED:
        starts = range(0, len(values), _SUMMED)
        parts = [slice(start, start + _SUMMED) for start in starts]
        blocks = [join(t, values[part], sizes[part], axis) for part in parts]
        return join(t, blocks, [sum(sizes[part]) for part in parts], axis)
    padded = [
        t.pad(value, {axis: (sum(sizes[:place]), sum(sizes[place + 1 :]))})
        for place, value in enumerate(values)
    ]
    return padded[0] if len(padded) == 1 else t.op("Sum", *padded)


def cut(t: Builder, x: ir.Value, sizes: Sequence[int], axis: int) -> tuple[ir.Value, ...]:
    """Cut a value along an axis into parts of the given sizes, with one Slice per part."""
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    pairs = zip(starts, sizes, strict=True)
    return tuple(t.slice(x, axis, start, start + size) for start, size in pairs)
