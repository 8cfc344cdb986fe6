"""Size buckets of the loss alone: a graph costs the same however many of its rows are used."""

from __future__ import annotations

__all__ = ["choose_buckets"]

_FEWEST = 32  # fewer rows cost less than the passes over the predictions


def choose_buckets(max_targets: int) -> tuple[int, ...]:
    """Return the powers of two from 32 that are at most two thirds of `max_targets`.

    The smallest graph with capacity for a batch then has fewer than three times the batch's rows,
    or at most 47, and no two graphs are so close in size that the smaller one saves little.
    """
    buckets, rows = [], _FEWEST
    while 3 * rows <= 2 * max_targets:
        buckets.append(rows)
        rows *= 2
    return tuple(buckets)
