"""`exportloss runs` and `exportloss rollback`: the runs of a project, and the one in use."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from exportloss.cli.defaults import default_of
from exportloss.cli.detection.judging import judge_detector
from exportloss.cli.run_paths import run_at
from exportloss.cli.terminal import Terminal, say
from exportloss.cli.train.options import TrainOptions
from exportloss.errors import ConfigError, excerpt
from exportloss.runtime.data.dataset import read_data_yaml
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.training.history import (
    CURRENT,
    RunSummary,
    current_run,
    find_damage,
    list_runs,
    make_current,
)
from exportloss.runtime.training.results import EpochResult

__all__ = ["add_parser", "run_list", "run_rollback"]

_LEAST_WIDTH = 120
_LONGEST_REASON = 300


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands."""
    runs = subparsers.add_parser(
        "runs",
        help="list the runs of a project: where each started and its best result",
        description="List the runs of a project, the earliest first: the run that each began with, "
        "the mAP of its detector at the start and at best, which one is in use, and which are "
        "damaged, with the reason.",
        epilog="example: exportloss runs",
    )
    rollback = subparsers.add_parser(
        "rollback",
        help="go back to the detector of an earlier run",
        description="Link PROJECT/current to an earlier run: to RUN, or to the one that the "
        "current run began with, or with --data to the one whose detector is best on that data.",
        epilog="example: exportloss rollback --data data.yaml",
    )
    rollback.add_argument(
        "target", nargs="?", metavar="RUN", help="name of the run, such as exp2, or its folder"
    )
    rollback.add_argument(
        "--data",
        metavar="YAML",
        help="compare the detectors of all runs on the validation split of this data set",
    )
    for parser, run in ((runs, run_list), (rollback, run_rollback)):
        parser.add_argument(
            "--project",
            default=default_of(TrainOptions, "project"),
            metavar="FOLDER",
            help="folder of the runs (default %(default)s)",
        )
        parser.set_defaults(run=run)


def run_list(options: argparse.Namespace) -> int:
    """Print a line per run, and below them the reasons for damaged runs."""
    current = current_run(options.project)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "began with", "started", "epochs", "mAP50-95: start", "best", "epoch", ""):
        table.add_column(title)
    damaged = []
    for run in list_runs(options.project):
        is_current = current is not None and run.folder.path.resolve() == current.path
        marks = ["in use"] * is_current
        if reason := run.problem or find_damage(run.folder):
            marks.append("damaged")
            damaged.append(f"{run.name} is damaged: {excerpt(reason, _LONGEST_REASON)}")
        table.add_row(*_cells(run), ", ".join(marks))
    Terminal(least_width=_LEAST_WIDTH).print(table)
    link = Path(options.project) / CURRENT
    if link.is_symlink() and not link.exists():
        say(
            f"warning: {link} leads to a run that is gone; exportloss rollback RUN puts another "
            "into use"
        )
    for line in damaged:
        say(line)
    return 0


def run_rollback(options: argparse.Namespace) -> int:
    """Make another run the current one, and print its name."""
    if options.target is not None and options.data is not None:
        raise ConfigError("rollback takes RUN or --data, not both")
    target = _target(options)
    project, runs = Path(options.project), list_runs(options.project)
    if options.data is not None:
        chosen = _best_on(options.data, list(_usable(runs)))
    else:
        chosen = _named(runs, target or _before(options.project, runs))
    make_current(chosen.folder)
    say(f"in use: {chosen.name} ({_worth(chosen.best)}), by {project / 'current'}")
    return 0


def _cells(run: RunSummary) -> tuple[str, ...]:
    if run.problem:
        return run.name, "", "", "", "", "", ""
    origin, best = run.origin, run.best
    return (
        run.name,
        "" if origin is None else _began_with(run),
        "" if origin is None else origin.created,
        f"{len(run.epochs)}{'' if run.is_complete else ' (not complete)'}",
        _score(run.start),
        _score(best),
        "" if best is None else "start" if best.is_start else str(best.epoch),
    )


def _began_with(run: RunSummary) -> str:
    assert run.origin is not None
    name = "artifacts" if run.parent is None else run.parent.name
    return f"{name} ({run.origin.sha256[:8]})"


def _score(result: EpochResult | None) -> str:
    return "" if result is None or result.scores is None else f"{result.scores.map50_95:.3f}"


def _worth(result: EpochResult | None) -> str:
    return f"mAP50-95 {_score(result)} on its own data" if _score(result) else "not judged"


def _target(options: argparse.Namespace) -> str | None:
    """Return the name of the run that the target names, or whose folder it is.

    Raises:
        ConfigError: The folder is a run of another project, or no run.
    """
    target: str | None = options.target
    if target is None or Path(target).name == target:
        return target
    folder = Path(target)
    if run_at(folder) is None:
        raise ConfigError(
            f"{folder} is no run; expected a run's folder, or its name in {options.project}"
        )
    real = folder.resolve()
    if real.parent != Path(options.project).resolve():
        raise ConfigError(
            f"{folder} is a run of {real.parent}, not of {options.project}; pass --project "
            f"{folder.parent}"
        )
    return real.name


def _before(project: str, runs: tuple[RunSummary, ...]) -> str:
    """Name the run that the current one began with."""
    current = current_run(project)
    if current is None:
        raise ConfigError(f"{project} has no current run; name the one to use")
    parent = _named(runs, current.path.name).parent
    if parent is None:
        raise ConfigError(
            f"{current.path.name} did not begin with an earlier run; name the one to use"
        )
    return parent.name


def _named(runs: tuple[RunSummary, ...], name: str) -> RunSummary:
    for run in runs:
        if run.name == name:
            return run
    names = ", ".join(run.name for run in runs)
    raise ConfigError(f"there is no run {name!r}; choose one of {names}")


def _usable(runs: tuple[RunSummary, ...]) -> Iterator[RunSummary]:
    """Yield the complete runs; print a note about each damaged one."""
    for run in runs:
        if problem := run.problem or find_damage(run.folder):
            say(f"note: {run.name} is skipped, being damaged: {excerpt(problem, _LONGEST_REASON)}")
        elif run.is_complete:
            yield run


def _best_on(data: str, runs: list[RunSummary]) -> RunSummary:
    """Return the run whose detector is best on a validation split; of equal ones the later."""
    if not runs:
        raise ConfigError("no run is complete; there is nothing to choose from")
    config = read_data_yaml(data)
    judged = []
    for number, run in enumerate(runs):
        scores = judge_detector(Detector.open(run.folder.best_onnx), config)
        say(f"{run.name:20} {scores.summary()}")
        judged.append((scores.fitness, number))
    return runs[max(judged)[1]]
