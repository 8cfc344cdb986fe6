"""Medians, ratios and fits."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

__all__ = ["Timing", "fitted_exponent", "fitted_slope"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """Times of a step in milliseconds, over `samples` measurements."""

    median_ms: float
    min_ms: float
    max_ms: float
    samples: int

    @classmethod
    def of(cls, seconds: Sequence[float], *, scale: float = 1.0) -> Timing:
        """Summarize at least one measurement, each multiplied by `scale`."""
        milliseconds = [1e3 * scale * value for value in seconds]
        return cls(
            median_ms=statistics.median(milliseconds),
            min_ms=min(milliseconds),
            max_ms=max(milliseconds),
            samples=len(milliseconds),
        )


def fitted_exponent(sizes: Sequence[float], times: Sequence[float]) -> float:
    """Fit time = c * size**e to the points, all numbers > 0, and return e.

    Least squares of the logarithms; NaN with fewer than two different sizes.
    """
    return fitted_slope([math.log(size) for size in sizes], [math.log(time) for time in times])


def fitted_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of the least-squares line; NaN with fewer than two different `x`."""
    if len(set(x)) < 2:
        return math.nan
    return statistics.linear_regression(x, y).slope
