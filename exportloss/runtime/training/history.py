"""The history of a project's runs: their origins, their results, and the run in use.

The link `current` in the project's folder leads to the run in use, so that any program can read
`runs/train/current/weights/best.onnx`.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from exportloss.errors import ArtifactError, ExportLossError, excerpt
from exportloss.runtime.artifact.onnx_files.onnx_file import read_onnx
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.training.origin import Origin, read_origin
from exportloss.runtime.training.results import EpochResult, best_epoch, read_results
from exportloss.runtime.training.run_folder import RunFolder, read_yaml
from exportloss.runtime.training.run_log import read_start

__all__ = [
    "CURRENT",
    "RunSummary",
    "current_run",
    "find_damage",
    "latest_run",
    "list_runs",
    "make_current",
]

CURRENT = "current"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run of a project.

    Attributes:
        folder: Folder of the run.
        origin: Origin of the run; None if unknown.
        start: Validation before the first epoch; None if unknown.
        epochs: Epochs done so far.
        is_complete: True if the run has a detector to use.
        problem: Reason why the run cannot be read; empty if it can.
    """

    folder: RunFolder
    origin: Origin | None = None
    start: EpochResult | None = None
    epochs: tuple[EpochResult, ...] = ()
    is_complete: bool = False
    problem: str = ""

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.path.name

    @property
    def parent(self) -> Path | None:
        """Folder of the run whose weights this run started from; None if there is none."""
        return Path(self.origin.run) if self.origin is not None and self.origin.run else None

    @property
    def best(self) -> EpochResult | None:
        """Best epoch, or the start if no epoch is better; None before either."""
        judged = [*([] if self.start is None else [self.start]), *self.epochs]
        return best_epoch(judged) if judged else None


def list_runs(project: str | Path) -> tuple[RunSummary, ...]:
    """Return the runs of a project in the order of their starts.

    Raises:
        ArtifactError: there is no such folder.
    """
    try:
        folders = [path for path in Path(project).iterdir() if not path.is_symlink()]
    except OSError as error:
        raise ArtifactError(f"{project} is no folder of runs: {error}") from error
    runs = [RunFolder(path) for path in folders if (path / "opt.yaml").is_file()]
    return tuple(map(_summary, sorted(runs, key=_started)))


def latest_run(project: str | Path) -> RunFolder:
    """Return the run that was written to last.

    Raises:
        ArtifactError: there is none.
    """
    runs = [run.folder for run in list_runs(project)]
    if not runs:
        raise ArtifactError(f"{project} has no run to resume; name a run, or another project")
    return max(runs, key=lambda run: _modified(run.last) or _modified(run.options))


def current_run(project: str | Path) -> RunFolder | None:
    """Return the run in use; None if no run is complete yet."""
    link = Path(project) / CURRENT
    return RunFolder(link.resolve()) if link.is_dir() else None


def make_current(run: RunFolder) -> None:
    """Let the project's `current` lead to a run, in one step.

    Raises:
        ArtifactError: the run has no detector, or a damaged one, or the link cannot be made.
    """
    if not run.best_onnx.is_file():
        raise ArtifactError(
            f"{run.path} has no {run.best_onnx.name}: it is no run, or not complete; name "
            "a complete one, as `exportloss runs` lists them"
        )
    read_onnx(run.best_onnx)
    link = run.path.resolve().parent / CURRENT
    temporary = link.with_name(f".{CURRENT}-{os.getpid()}")
    try:
        if link.exists() and not link.is_symlink():
            raise FileExistsError(f"{link} is no link")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(run.path.name, target_is_directory=True)
        temporary.replace(link)
    except OSError as error:
        raise ArtifactError(f"{link} cannot be made: {error}") from error


def find_damage(run: RunFolder) -> str:
    """Read the files of a run and return what is wrong with the first damaged one.

    The weights are read whole and compared with the SHA-256 that they carry. A missing file is no
    damage: a run may be interrupted.

    Returns:
        The problem and its file, in words; empty if every file is good.
    """
    try:
        run.check()
        read_yaml(run.options)
        read_origin(run.origin)
        read_start(run.log)
        read_results(run.results)
        for state in (run.last, run.best):
            if state.exists():
                load_state(state)
        if run.best_onnx.exists():
            read_onnx(run.best_onnx)
    except ExportLossError as error:
        return str(error)
    return ""


def _summary(run: RunFolder) -> RunSummary:
    try:
        return RunSummary(
            folder=run,
            origin=read_origin(run.origin),
            start=read_start(run.log),
            epochs=tuple(read_results(run.results)),
            is_complete=run.best_onnx.is_file(),
        )
    except ExportLossError as error:
        return RunSummary(folder=run, problem=excerpt(error, 200))


def _started(run: RunFolder) -> tuple[float, str]:
    return _modified(run.origin) or _modified(run.options), run.path.name


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
