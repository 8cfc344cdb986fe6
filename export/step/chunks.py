"""Flat vectors of large models in parts, so that an update needs little memory beside its state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

__all__ = ["CHUNK", "Part", "after", "chunks"]

# Elements, a multiple of the optimizer's row: 16 MiB. A vector of up to two such parts stays whole.
CHUNK = 1 << 22

Part = tuple[slice, list[int]]  # of a vector, and how many elements of each group it has


def chunks(sizes: Sequence[int], chunk: int = CHUNK) -> Iterator[Part]:
    """Cut a vector of consecutive groups into parts.

    An expression over a whole vector of P elements holds a few more vectors of that size.

    Args:
        sizes: Elements of each group; P is their sum.
        chunk: Elements of a part, unless the vector has at most twice as many.

    Yields:
        Each part.
    """
    total = sum(sizes)
    if total <= 2 * chunk:
        yield slice(None), list(sizes)
        return
    for start in range(0, total, chunk):
        end, before, inside = min(start + chunk, total), 0, []
        for size in sizes:
            inside.append(max(0, min(end, before + size) - max(start, before)))
            before += size
        yield slice(start, end), inside


def after(condition: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Return a condition, whose value stays the same, that is known once the vectors are.

    A runtime orders nodes by what they read, not by what would save memory.
    """
    is_positive = torch.stack([value[0] for value in values]) > 0
    return condition & (is_positive.any() | is_positive.logical_not().any())
