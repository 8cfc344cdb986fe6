"""Finding the run that a path belongs to, and the run's artifacts."""

from __future__ import annotations

import os
from pathlib import Path

from exportloss.errors import ArtifactError
from exportloss.runtime.artifact.manifest import MANIFEST_NAME
from exportloss.runtime.training.run_folder import RunFolder, read_yaml

__all__ = [
    "RUN_NAME",
    "artifacts_of",
    "find_run",
    "graph_file",
    "is_artifact",
    "run_at",
    "verified_folder",
]

RUN_NAME = "exp"  # of the first run of a project


def is_artifact(folder: Path) -> bool:
    """Return whether a folder has a manifest; False for a path that no file can have."""
    return os.path.exists(folder / MANIFEST_NAME)  # noqa: PTH110 - unlike Path's, it never raises


def run_at(path: Path) -> RunFolder | None:
    """Return the run in this folder; None if it is not a run's."""
    run = RunFolder(path)
    return run if run.options.is_file() else None


def find_run(weights: Path) -> tuple[RunFolder | None, Path | None]:
    """Return the run that a path belongs to, and the state that it names.

    Args:
        weights: Folder of a run, which names its best state, or a file of weights in one.

    Returns:
        Run and state, or None twice if the path belongs to no run.
    """
    if (run := run_at(weights)) is not None:
        return run, run.best
    run = RunFolder(weights.absolute().parent.parent)
    is_state = weights.suffix == ".safetensors" and weights.parent.name == run.best.parent.name
    return (run, weights) if is_state and run.options.is_file() else (None, None)


def artifacts_of(run: RunFolder) -> Path | None:
    """Return the artifacts folder that a run was trained with; None if it is gone.

    Raises:
        ArtifactError: The options of the run are damaged.
    """
    recorded = read_yaml(run.options).get("weights")
    places = [run.artifacts, *([Path(recorded)] if isinstance(recorded, str) else [])]
    return next(filter(is_artifact, places), None)


def graph_file(path: Path) -> Path:
    """Return an ONNX file: the path itself, or the best detector of a run's folder.

    Raises:
        ArtifactError: The path is a folder that is no run, or a run without a detector.
    """
    if not path.is_dir():
        return path
    graphs = ", ".join(sorted(each.name for each in path.glob("*.onnx")))
    if (run := run_at(path)) is None:
        held = f"; this folder holds {graphs}" if graphs else ""
        raise ArtifactError(
            f"{path} is a folder and no run; expected an ONNX file, or a run for its "
            f"weights/best.onnx{held}"
        )
    if not run.best_onnx.is_file():
        raise ArtifactError(
            f"{path} is a run that has no weights/best.onnx yet; finish it with exportloss train "
            f"--resume {path}, or name a graph of its artifacts"
        )
    return run.best_onnx


def verified_folder(path: Path) -> Path:
    """Return an artifacts folder: the path itself, or the one that a run is trained with.

    Raises:
        ArtifactError: There is no such folder, or it is a run whose artifacts are gone.
    """
    if not path.exists():
        raise ArtifactError(f"{path}: no such folder; expected an artifacts folder or a run")
    if is_artifact(path) or (run := run_at(path)) is None:
        return path
    if (artifacts := artifacts_of(run)) is None:
        raise ArtifactError(
            f"{path} is a run whose artifacts ({read_yaml(run.options).get('weights')}) are gone; "
            "name the artifacts folder itself"
        )
    return artifacts
