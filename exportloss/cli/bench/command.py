"""`exportloss bench`: time and memory of several implementations of the same work."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path

from exportloss.bench import (
    AXES,
    BENCHES,
    LOSS_BENCHES,
    Bench,
    BenchResult,
    Growth,
    Setting,
    measure_growth,
    measure_memory,
    run_bench,
)
from exportloss.bench.plot import plot
from exportloss.cli.bench.options import (
    add_growth_arguments,
    add_measuring_arguments,
    add_output_arguments,
    add_size_arguments,
    make_setting,
)
from exportloss.cli.bench.tables import print_growth, print_result
from exportloss.cli.defaults import default_of
from exportloss.cli.terminal import say
from exportloss.errors import ConfigError, InstallationError
from exportloss.runtime.drawing.figures import matplotlib_missing

__all__ = ["add_parser"]

_ROUNDS = default_of(run_bench, "rounds")
_STEPS = default_of(run_bench, "steps")
_MEMORY_STEPS = default_of(measure_memory, "steps")

_OF = tuple(name for name in BENCHES if name != "export")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command, with a subcommand per benchmark and one for memory."""
    parser = subparsers.add_parser(
        "bench",
        help="time the loss or a training step against eager torch",
        description="Compare implementations of the same work, each in a process of its own.",
    )
    benches = parser.add_subparsers(metavar="WHAT", required=True)
    for bench in BENCHES.values():
        _add_bench(benches, bench)
    _add_memory(benches)


def _add_bench(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser], bench: Bench
) -> None:
    implementations = "; ".join(
        f"{implementation.name}: {implementation.about}" for implementation in bench.implementations
    )
    parser = subparsers.add_parser(
        bench.name,
        help=f"time {bench.about}",
        description=f"Time {bench.about}, in interleaved rounds. "
        f"Implementations: {implementations}.",
    )
    add_size_arguments(parser, [bench])
    once = bench.unmeasured == 0
    add_measuring_arguments(
        parser,
        rounds=1 if once else _ROUNDS,
        steps=1 if once else _STEPS,
    )
    add_growth_arguments(parser)
    add_output_arguments(parser)
    parser.set_defaults(run=functools.partial(_time, bench))


def _add_memory(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "memory",
        help="measure the memory of each implementation's process",
        description="Measure the resident size of each implementation's process, one after the "
        "other: after its imports, when it is ready, and its peak.",
    )
    parser.add_argument(
        "--of",
        choices=_OF,
        default="step",
        help="the work; sizes and implementations are those of that benchmark "
        "(default %(default)s)",
    )
    add_size_arguments(parser, [BENCHES[name] for name in _OF])
    add_measuring_arguments(parser, rounds=None, steps=_MEMORY_STEPS)
    add_growth_arguments(parser)
    add_output_arguments(parser)
    parser.set_defaults(run=_remember)


def _time(bench: Bench, options: argparse.Namespace) -> int:
    bench = _of_loss(bench, options)
    implementations = bench.choose(options.rivals)

    def run(setting: Setting) -> BenchResult:
        return run_bench(
            bench,
            setting,
            implementations=implementations,
            rounds=options.rounds,
            steps=options.steps,
        )

    return _measure(bench, options, run)


def _remember(options: argparse.Namespace) -> int:
    bench = _of_loss(BENCHES[options.of], options)
    implementations = bench.choose(options.rivals)

    def run(setting: Setting) -> BenchResult:
        return measure_memory(bench, setting, implementations=implementations, steps=options.steps)

    return _measure(bench, options, run)


def _check_goals(bench: Bench, options: argparse.Namespace) -> None:
    chosen = [implementation.name for implementation in bench.choose(options.rivals)]
    for goal in options.goals:
        names = one, other = goal.rival, goal.against
        bench.choose(names)  # refuses names that it does not have
        if lacking := [name for name in names if name not in chosen]:
            raise ConfigError(
                f"--goal compares {one} with {other}, and {lacking[0]} is not measured; add it"
            )
        if one == other:
            raise ConfigError(f"--goal compares {one} with itself; name another implementation")


def _of_loss(bench: Bench, options: argparse.Namespace) -> Bench:
    """Return the benchmark of the loss that `--loss` names."""
    loss = getattr(options, "loss", None)
    if loss is None:
        return bench
    if bench.name != "loss":
        raise ConfigError(f"--loss applies only to bench loss, not to {bench.name}; leave it out")
    return LOSS_BENCHES[loss]


def _measure(
    bench: Bench, options: argparse.Namespace, run: Callable[[Setting], BenchResult]
) -> int:
    """Measure at one size or at several, and print the result."""
    setting = make_setting(bench, options)
    if options.at is not None and options.growth is None:
        raise ConfigError("--at names the sizes of --growth; pass --growth as well")
    _check_goals(bench, options)
    if options.plot is not None and (missing := matplotlib_missing()) is not None:
        raise InstallationError(missing)  # before minutes of measuring
    result: BenchResult | Growth
    if options.growth is None:
        result = run(setting)
    else:
        values = options.at or AXES[options.growth].usual
        result = measure_growth(options.growth, values, setting, run)
    result = result.judged(options.goals)
    if options.plot is not None:
        plot(Path(options.plot), result)
    if options.json:
        say(json.dumps(result.to_json(), indent=1, allow_nan=False))
    elif isinstance(result, Growth):
        print_growth(result)
    else:
        print_result(result)
    results = [point.result for point in result.points] if isinstance(result, Growth) else [result]
    verdicts = [judgement.verdict for one in results for judgement in one.judgements]
    return 0 if all(verdict == "met" for verdict in verdicts) else 1
