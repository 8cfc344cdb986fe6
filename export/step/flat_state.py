"""`FlatLayout` for traced tensors: the flat vectors of the portable step in torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from exportloss.export.aten.tracing import region
from exportloss.runtime.artifact.flat_layout import FlatLayout

__all__ = ["flatten", "flatten_parts", "lay_out", "unflatten"]


def lay_out(tensors: Mapping[str, Tensor], names: Sequence[str]) -> FlatLayout:
    """Return the layout of the named tensors, in the given order."""
    return FlatLayout(tuple(names), tuple(tuple(tensors[name].shape) for name in names))


def flatten(layout: FlatLayout, tensors: Mapping[str, Tensor]) -> Tensor:
    """Concatenate tensors to a vector, (size,)."""
    if not layout.names:
        return torch.zeros(0)
    return torch.cat([tensors[name].reshape(-1) for name in layout.names])


def flatten_parts(
    layout: FlatLayout, tensors: Mapping[str, Tensor], parts: Sequence[slice]
) -> list[Tensor]:
    """Concatenate tensors to the parts of their vector, which is never there as a whole.

    Args:
        layout: Order of the tensors.
        tensors: Tensors by name.
        parts: The parts that `exportloss.export.step.chunks.chunks` gives.
    """
    if len(parts) == 1:
        return [flatten(layout, tensors)]
    flat = [tensors[name].reshape(-1) for name in layout.names]
    starts = [0, *itertools.accumulate(layout.sizes)]
    found = []
    for part in parts:
        pieces = [
            vector[max(0, part.start - start) : part.stop - start]
            for vector, start in zip(flat, starts, strict=False)
            if start < part.stop and part.start < start + len(vector)
        ]
        found.append(torch.cat(pieces))
    return found


def unflatten(layout: FlatLayout, vector: Tensor) -> dict[str, Tensor]:
    """Split a vector, (size,), into its tensors."""
    if not layout.names:
        return {}
    tensors = {}
    parts = torch.split(vector, list(layout.sizes))
    for name, part, shape in zip(layout.names, parts, layout.shapes, strict=True):
        with region(name):
            tensors[name] = part.view(shape)
    return tensors
