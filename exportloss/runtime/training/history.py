"""The runs of a project as a history: what each began with, what it came to, which is in use.

The run in use is what the link `current` in the project's folder leads to, so that any program can
read `runs/train/current/weights/best.onnx`.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from exportloss.errors import ArtifactError, ExportLossError, excerpt
from exportloss.runtime.artifact.onnx_file import read_onnx
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
    """One run.

    Attributes:
        folder: where it is.
        origin: what it began with; None where that is not known.
        start: what its detector was worth before the first epoch; None where that is not known.
        epochs: all that it has done.
        is_complete: whether it has a detector to use.
        problem: why no more is known of it; empty where nothing is wrong.
    """

    folder: RunFolder
    origin: Origin | None = None
    start: EpochResult | None = None
    epochs: tuple[EpochResult, ...] = ()
    is_complete: bool = False
    problem: str = ""

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.path.name

    @property
    def parent(self) -> Path | None:
        """The run that it took its weights from."""
        return Path(self.origin.run) if self.origin is not None and self.origin.run else None

    @property
    def best(self) -> EpochResult | None:
        """The best epoch, or the start; None before there is either."""
        judged = [*([] if self.start is None else [self.start]), *self.epochs]
        return best_epoch(judged) if judged else None


def list_runs(project: str | Path) -> tuple[RunSummary, ...]:
    """Return the runs of a project, the earliest first.

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
        raise ArtifactError(f"{project} has no run to resume; name one, or another --project")
    return max(runs, key=lambda run: _modified(run.last) or _modified(run.options))


def current_run(project: str | Path) -> RunFolder | None:
    """Return the run in use; None where none was completed yet."""
    link = Path(project) / CURRENT
    return RunFolder(link.resolve()) if link.is_dir() else None


def make_current(run: RunFolder) -> None:
    """Let the project's `current` lead to a run, in one step.

    Raises:
        ArtifactError: the run has no detector, or a damaged one, or the link cannot be made.
    """
    if not run.best_onnx.is_file():
        raise ArtifactError(
            f"{run.path} has no {run.best_onnx.name}: it is no run, or not complete; see "
            "`exportloss runs`"
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

    The weights are read whole and held to the sha256 that they carry. A file that is not there is
    no damage: a run may be interrupted.

    Returns:
        The reason, which names the file; empty where every file is good.
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
