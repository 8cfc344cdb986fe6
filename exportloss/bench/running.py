"""One run of a benchmark, from exports to rows."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

from exportloss.bench.implementations.implementation import Bench, Implementation
from exportloss.bench.machine.description import describe_machine
from exportloss.bench.machine.load import load_average
from exportloss.bench.machine.pace import PACE
from exportloss.bench.measuring import check_agreement
from exportloss.bench.process import Unavailable
from exportloss.bench.results import BenchResult, Limit, Row
from exportloss.bench.starting import Setting, Started, check_device, started
from exportloss.bench.statistics import Timing
from exportloss.bench.watching import Machine, measure_watched
from exportloss.bounds import at_least
from exportloss.errors import BenchmarkError, ConfigError

__all__ = ["measure_memory", "run_bench"]


def run_bench(
    bench: Bench,
    setting: Setting,
    *,
    implementations: Sequence[Implementation] | None = None,
    rounds: int = 10,
    steps: int = 2,
) -> BenchResult:
    """Time the implementations of a benchmark in turn, after a check that they compute the same.

    Rounds in which the machine was not quiet are repeated, half as many as `rounds` at most; on a
    GPU none are, since its times depend little on the load of the processor.

    Args:
        bench: Benchmark to run.
        setting: Where and with what to measure.
        implementations: Those of the benchmark to time; None for all.
        rounds: Number of rounds, each with one turn per implementation, >= 1.
        steps: Timed steps per turn, >= 1.

    Raises:
        ConfigError: A setting is wrong, or no implementation is available.
        BenchmarkError: The implementations disagree, or one crashed while it was timed.
        ArtifactError: `artifacts` holds files of other sizes.
    """
    at_least(1, rounds=rounds, steps=steps)
    check_device(setting.scenario)
    load = load_average()  # before the exports
    entries: dict[str, Started] = {}
    unavailable: dict[str, str] = {}
    with setting.with_folder() as here, contextlib.ExitStack() as stack:
        for implementation in (*(implementations or bench.implementations), *bench.limits):
            try:
                entries[implementation.name] = stack.enter_context(started(implementation, here))
            except Unavailable as answer:
                unavailable[implementation.name] = str(answer)
        limits = {limit.name for limit in bench.limits}
        names = [name for name in entries if name not in limits]
        _check_anybody(names, unavailable)
        setting.say("checking that all compute the same")
        numbers = {}
        for name in names:
            try:
                numbers[name] = entries[name].process.check()
            except BenchmarkError as error:  # the others can still be measured
                unavailable[name] = str(error)
                del entries[name]
        names = list(numbers)
        _check_anybody(names, unavailable)
        check_agreement(numbers, precision=setting.scenario.precision)
        processes = {name: entry.process for name, entry in entries.items()}
        pace = stack.enter_context(started(PACE, setting)).process
        seconds, condition = measure_watched(
            processes,
            Machine(pace, list(processes.values())),
            rounds=rounds,
            repeats=rounds // 2 if setting.scenario.torch_device == "cpu" else 0,
            steps=steps,
            unmeasured=bench.unmeasured,
            load_average=load,
            say=setting.say,
        )
        timings = {
            name: Timing.of(seconds[name], scale=entry.ready.scale)
            for name, entry in entries.items()
        }
        reference = timings.get(bench.reference or "")
        return BenchResult(
            bench=bench.name,
            scenario=setting.scenario,
            machine=describe_machine(),
            rows=tuple(
                _row(
                    entries[name],
                    timing=timings[name],
                    ratio=_ratio(timings[name], reference),
                )
                for name in names
            ),
            limits=tuple(
                Limit(name=name, timing=timings[name], facts=entries[name].ready.facts)
                for name in entries
                if name in limits
            ),
            unavailable=unavailable,
            condition=condition,
        )


def measure_memory(
    bench: Bench,
    setting: Setting,
    *,
    implementations: Sequence[Implementation] | None = None,
    steps: int = 3,
) -> BenchResult:
    """Measure how much memory a process of each implementation takes, one after the other.

    Args:
        bench: Benchmark to run.
        setting: Where and with what to measure.
        implementations: Those of the benchmark to measure; None for all.
        steps: Steps after those of the check, >= 1.

    Raises:
        ConfigError: A setting is wrong, or no implementation is available.
        BenchmarkError: The implementations disagree, or one crashed.
        ArtifactError: `artifacts` holds files of other sizes.
    """
    at_least(1, steps=steps)
    check_device(setting.scenario)
    rows: list[Row] = []
    numbers: dict[str, tuple[float, ...]] = {}
    unavailable: dict[str, str] = {}
    with setting.with_folder() as here:
        for implementation in implementations or bench.implementations:
            try:
                with started(implementation, here) as entry:
                    numbers[implementation.name] = entry.process.check()
                    entry.process.turn(unmeasured=0, steps=steps)
                    rows.append(_row(entry, timing=None, ratio=None))
            except Unavailable as answer:
                unavailable[implementation.name] = str(answer)
    _check_anybody(list(numbers), unavailable)
    check_agreement(numbers, precision=setting.scenario.precision)
    return BenchResult(
        bench=bench.name,
        scenario=setting.scenario,
        machine=describe_machine(),
        rows=_with_ratios(rows, reference=bench.reference),
        unavailable=unavailable,
    )


def _row(entry: Started, *, timing: Timing | None, ratio: float | None) -> Row:
    return Row(
        rival=entry.process.implementation.name,
        engine=entry.ready.engine,
        timing=timing,
        ratio_to_eager=ratio,
        prepare_s=entry.ready.prepare_s,
        facts=entry.ready.facts,
        **entry.process.memory(),
    )


def _ratio(timing: Timing, reference: Timing | None) -> float | None:
    return None if reference is None else timing.median_ms / reference.median_ms


def _with_ratios(rows: Sequence[Row], *, reference: str | None) -> tuple[Row, ...]:
    """Fill in the ratios of the peaks."""
    peaks = {row.rival: row.peak_mb for row in rows}
    if reference not in peaks:
        return tuple(rows)
    return tuple(
        dataclasses.replace(row, ratio_to_eager=row.peak_mb / peaks[reference]) for row in rows
    )


def _check_anybody(names: Sequence[str], unavailable: Mapping[str, str]) -> None:
    if not names:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unavailable.items())
        raise ConfigError(f"none of the implementations is available: {reasons}")
