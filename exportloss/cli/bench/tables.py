"""Tables of the results of benchmarks."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from exportloss.bench import BenchResult, Growth, Row
from exportloss.bench.quiet import Condition
from exportloss.cli.terminal import Terminal

__all__ = ["print_growth", "print_result"]

_LEAST_WIDTH = 120


def print_result(result: BenchResult) -> None:
    """Print sizes, machine, a row per implementation, limits, and what is not available."""
    console = _console()
    console.print(_about(result))
    console.print(_times(result) if any(row.timing for row in result.rows) else _memory(result))
    _print_condition(console, result)
    _print_goals(console, result)
    for limit in result.limits:
        facts = ", ".join(f"{name} {value:.4g}" for name, value in limit.facts.items())
        console.print(f"{limit.name}: {limit.timing.median_ms:.2f} ms ({facts})")
    _print_unavailable(console, result.unavailable)


def print_growth(growth: Growth) -> None:
    """Print a row per size, with ratios to eager, and the fitted exponents below."""
    console, first = _console(), growth.points[0].result
    unit = "ms" if any(row.timing for row in first.rows) else "peak MB"
    console.print(_about(first, without=growth.over))
    console.print(f"{unit} by {growth.over}, in brackets x eager")
    table = _empty_table(growth.over)
    for implementation in growth.implementations:
        table.add_column(implementation, justify="right")
    for point in growth.points:
        rows = [point.result.row(implementation) for implementation in growth.implementations]
        table.add_row(point.at, *map(_cell, rows))
    exponents, slopes = growth.exponents(), growth.slopes()
    table.add_row(
        "exponent",
        *(f"{exponents[implementation]:.2f}" for implementation in growth.implementations),
    )
    if growth.over != "model":
        table.add_row(
            f"{unit} each",
            *(f"{slopes[implementation]:.3g}" for implementation in growth.implementations),
        )
    console.print(table)
    for point in growth.points:
        if not point.result.quiet:
            _print_condition(console, point.result, at=f"{growth.over} {point.at}: ")
        _print_goals(console, point.result, at=f"{growth.over} {point.at}: ")
    unavailable = {
        implementation: reason
        for point in growth.points
        for implementation, reason in point.result.unavailable.items()
    }
    _print_unavailable(console, {**unavailable, **growth.failed})


def _console() -> Terminal:
    return Terminal(least_width=_LEAST_WIDTH)


def _about(result: BenchResult, *, without: str = "") -> str:
    machine = result.machine
    return f"{result.title(without=without)}\n{machine['processor']}, {machine['cores']} cores"


def _empty_table(first: str, *titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(first)
    for title in titles:
        table.add_column(title, justify="left" if title == "engine" else "right")
    return table


def _times(result: BenchResult) -> Table:
    titles = ["median ms", "min", "max", "x eager"]
    limit = result.limits[0].timing.median_ms if result.limits else None
    if limit is not None:
        titles.append("x limit")
    table = _empty_table("implementation", "engine", *titles, "prepare s", "peak MB")
    for row in result.rows:
        assert row.timing is not None
        timing = row.timing
        cells = [_short(value) for value in (timing.median_ms, timing.min_ms, timing.max_ms)]
        cells.append(_ratio(row))
        if limit is not None:
            cells.append(f"{timing.median_ms / limit:.1f}")
        table.add_row(row.rival, row.engine, *cells, f"{row.prepare_s:.1f}", f"{row.peak_mb:,.0f}")
    return table


def _memory(result: BenchResult) -> Table:
    table = _empty_table(
        "implementation", "engine", "imported MB", "loaded MB", "peak MB", "x eager"
    )
    for row in result.rows:
        sizes = (row.imported_mb, row.loaded_mb, row.peak_mb)
        table.add_row(row.rival, row.engine, *(f"{size:,.0f}" for size in sizes), _ratio(row))
    return table


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    ratio = f" ({row.ratio_to_eager:.2f})" if row.ratio_to_eager is not None else ""
    return _short(row.measured) + ratio


def _ratio(row: Row) -> str:
    return "" if row.ratio_to_eager is None else f"{row.ratio_to_eager:.2f}"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:,.0f}"


def _print_condition(console: Terminal, result: BenchResult, *, at: str = "") -> None:
    """Say how quiet the machine was."""
    if (condition := result.condition) is None:
        return
    console.print(at + _figures(condition), style="" if condition.quiet else "yellow")
    for reason in condition.reasons:
        console.print(f"  {reason}", style="" if condition.quiet else "yellow")


def _print_goals(console: Terminal, result: BenchResult, *, at: str = "") -> None:
    for judgement in result.judgements:
        goal, ratio = judgement.goal, judgement.ratio
        measured = "not measured" if ratio is None else f"{ratio:.2f}"
        console.print(
            f"{at}{goal.pair}: {measured}, goal {goal.most:g}: {judgement.verdict or 'no verdict'}"
        )


def _figures(condition: Condition) -> str:
    least, median, most = condition.pace_ms
    load = "unknown" if condition.load_average is None else f"{condition.load_average:.2f}"
    others = "unknown" if condition.others is None else f"{condition.others:.1%}"
    kept = condition.rounds - condition.discarded
    was = "quiet" if condition.quiet else "NOT QUIET: these times and ratios decide nothing"
    return (
        f"machine: {was}; load average before {load}, other processes at most {others} of the "
        f"processor, fixed work {median:.1f} ms ({least:.1f} to {most:.1f}), {kept} of "
        f"{condition.rounds} rounds counted"
    )


def _print_unavailable(console: Terminal, unavailable: Mapping[str, str]) -> None:
    for implementation, reason in unavailable.items():
        console.print(f"{implementation} not available: {reason}", style="yellow")
