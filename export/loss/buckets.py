"""How many target slots the graphs of the loss alone have: a graph pays for all of its slots."""

from __future__ import annotations

__all__ = ["choose_tiers"]

_FEWEST = 32  # below that, slots cost less than the passes over the predictions


def choose_tiers(max_targets: int) -> tuple[int, ...]:
    """Return the powers of two from 32 that are at most two thirds of `max_targets`.

    So the smallest graph with room for a batch has fewer than three times its rows, or 47 at most,
    and no two graphs are so near each other that the smaller saves little.
    """
    tiers, slots = [], _FEWEST
    while 3 * slots <= 2 * max_targets:
        tiers.append(slots)
        slots *= 2
    return tuple(tiers)
