"""Results of benchmarks as tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from exportloss.bench import BenchResult

__all__ = ["print_result"]

_LEAST_WIDTH = 120


def print_result(result: BenchResult) -> None:
    """Print sizes, machine, a row for each rival, limits, and who could not take part."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _LEAST_WIDTH)
    console.print(_about(result))
    console.print(_table(result))
    for limit in result.limits:
        facts = ", ".join(f"{name} {value:.4g}" for name, value in limit.facts.items())
        console.print(f"{limit.name}: {limit.timing.median_ms:.2f} ms ({facts})")
    for rival, reason in result.unavailable.items():
        console.print(f"{rival} not available: {reason}", style="yellow")


def _about(result: BenchResult) -> str:
    scenario, machine = result.scenario, result.machine
    height, width = scenario.image_size
    layout = f", {scenario.layout}" if result.bench == "loss" else ""
    frozen = "" if scenario.freeze == (0,) else f", frozen {' '.join(map(str, scenario.freeze))}"
    return (
        f"{result.bench}: {scenario.model}, {height} x {width}, batch {scenario.batch_size}, "
        f"{scenario.num_classes} classes, {scenario.targets} targets in {scenario.max_targets} "
        f"slots{layout}{frozen}\n"
        f"{machine['processor']}, {machine['cores']} cores, {scenario.threads} threads, "
        f"{scenario.device}"
    )


def _table(result: BenchResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rival")
    table.add_column("engine")
    limit = result.limits[0] if result.limits else None
    titles = ["median ms", "min", "max", "x eager"]
    if limit is not None:
        titles.append("x limit")
    for title in (*titles, "prepare s", "peak MB"):
        table.add_column(title, justify="right")
    for row in result.rows:
        assert row.timing is not None
        timing = row.timing
        cells = [_ms(value) for value in (timing.median_ms, timing.min_ms, timing.max_ms)]
        cells.append("" if row.ratio_to_eager is None else f"{row.ratio_to_eager:.2f}")
        if limit is not None:
            cells.append(f"{timing.median_ms / limit.timing.median_ms:.1f}")
        table.add_row(row.rival, row.engine, *cells, f"{row.prepare_s:.1f}", f"{row.peak_mb:,.0f}")
    return table


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"
