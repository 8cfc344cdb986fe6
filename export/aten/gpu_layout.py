"""Sums, joins and cuts written as a GPU does them fast, in operators that every runtime has.

Measured in ONNX Runtime's CUDA provider on an H100, see docs/cuda.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

if TYPE_CHECKING:  # which calls what is here
    from exportloss.export.aten.builder import Builder

__all__ = ["cut", "join", "needs_table", "reduce"]

_LONG_AXIS = 4096  # places
_SUMMED = 16  # parts of a sum


def reduce(t: Builder, op_type: str, x: ir.Value, axes: Sequence[int], *, keep: bool) -> ir.Value:
    """Reduce first what lies together in memory: CUDA is eight times slower at the rest.

    Args:
        t: the builder.
        op_type: ReduceSum or ReduceMean.
        x: of any shape.
        axes: what to reduce over, ascending.
        keep: whether the axes stay, with size 1.
    """
    apart = max((axis for axis in range(len(x.shape or ())) if axis not in axes), default=-1)
    for together in (True, False):
        part = [axis for axis in axes if (axis > apart) == together]
        if part:
            x = t.reduce_at_once(op_type, x, part, keep=keep)
    return x


def needs_table(sizes: Sequence[int]) -> bool:
    """Return whether CUDA's Concat and Split would go by a long table of places on the axis.

    They do where the parts have different sizes. The table is made on the host and copied to the
    device in every run, 8 bytes a place; and memory for it cannot be had while a CUDA graph is
    captured.
    """
    return len(set(sizes)) > 1 and sum(sizes) >= _LONG_AXIS


def join(t: Builder, values: Sequence[ir.Value], sizes: Sequence[int], axis: int) -> ir.Value:
    """Join floats along an axis as a sum: each with zeros where the others are.

    Args:
        t: the builder.
        values: what to join.
        sizes: of each, along the axis.
        axis: not negative.
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
    """Cut a value into parts along an axis, one by one; arguments as of `join`."""
    starts = [sum(sizes[:place]) for place in range(len(sizes))]
    pairs = zip(starts, sizes, strict=True)
    return tuple(t.slice(x, axis, start, start + size) for start, size in pairs)
