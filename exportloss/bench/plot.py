"""Plots of benchmarks. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exportloss.bench.growth import Growth
from exportloss.bench.results import BenchResult
from exportloss.runtime.drawing.figures import BLUE, DARK, GREY, ORANGE, figure_file, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot"]


def plot(path: Path, result: BenchResult | Growth) -> None:
    """Draw bars with minimum and maximum for one size, or curves for several.

    Args:
        path: PNG file to write.
        result: Result to draw.

    Raises:
        ArtifactError: The file cannot be written.
        InstallationError: matplotlib is missing.
    """
    rows = 0 if isinstance(result, Growth) else len(result.rows)
    with figure_file(path, 8, max(1.6 + 0.45 * rows, 3) if rows else 5) as figure:
        axes: Axes = figure.subplots()
        if isinstance(result, Growth):
            _curves(axes, result)
        else:
            _bars(axes, result)
        tidy(axes)


def _bars(axes: Axes, result: BenchResult) -> None:
    for place, row in enumerate(result.rows):
        color = GREY if row.rival.startswith("eager") else BLUE
        axes.barh(place, row.measured, color=color, height=0.7)
        end = row.measured
        if row.timing is not None:
            end = row.timing.max_ms
            axes.plot([row.timing.min_ms, end], [place] * 2, color=DARK, linewidth=1)
        ratio = "" if row.ratio_to_eager is None else f" ({row.ratio_to_eager:.2f})"
        axes.text(end, place, f"  {row.measured:,.4g}{ratio}", va="center", fontsize=9)
    for limit in result.limits:
        time = limit.timing.median_ms
        axes.axvline(time, color=ORANGE, linewidth=1.4, linestyle="--", label=limit.name)
    if result.limits:
        axes.legend(frameon=False)
    axes.set_yticks(range(len(result.rows)), [row.rival for row in result.rows])
    axes.invert_yaxis()
    axes.set_xlim(0, axes.get_xlim()[1] * 1.2)
    axes.set_xlabel(_unit(result))
    axes.set_title(result.title(), loc="left", fontsize=10)


def _curves(axes: Axes, growth: Growth) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    exponents, first = growth.exponents(), growth.points[0].result
    for implementation in growth.implementations:
        found = [
            (point.size, row.measured)
            for point in growth.points
            if (row := point.result.row(implementation)) is not None
        ]
        label = f"{implementation}, exponent {exponents[implementation]:.2f}"
        axes.loglog(*zip(*found, strict=True), marker="o", markersize=4, label=label)
    axes.set_xticks([p.size for p in growth.points], [p.at for p in growth.points])
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(growth.over)
    axes.set_ylabel(_unit(first))
    axes.set_title(first.title(without=growth.over), loc="left", fontsize=10)
    axes.legend(frameon=False)


def _unit(result: BenchResult) -> str:
    return "median ms" if any(row.timing for row in result.rows) else "peak MB"
