"""The run that a path means, and where its artifacts are."""

from __future__ import annotations

from pathlib import Path

from exportloss.errors import ArtifactError
from exportloss.runtime.artifact.manifest import MANIFEST_NAME
from exportloss.runtime.training.run_folder import RunFolder, read_yaml

__all__ = ["RUN_NAME", "artifacts_of", "find_run", "graph_file", "run_at", "verified_folder"]

RUN_NAME = "exp"  # of the first run of a project


def run_at(path: Path) -> RunFolder | None:
    """Return the run whose folder this is; None for anything else."""
    run = RunFolder(path)
    return run if run.options.is_file() else None


def find_run(weights: Path) -> tuple[RunFolder | None, Path | None]:
    """Return the run that a path means and which of its states: the best of a folder.

    Args:
        weights: Folder of a run, or a file of weights of one.

    Returns:
        None twice where it means no run.
    """
    if (run := run_at(weights)) is not None:
        return run, run.best
    run = RunFolder(weights.absolute().parent.parent)
    is_state = weights.suffix == ".safetensors" and weights.parent.name == run.best.parent.name
    return (run, weights) if is_state and run.options.is_file() else (None, None)


def artifacts_of(run: RunFolder) -> Path | None:
    """Return the artifacts that a run was trained with; None where they are gone.

    Raises:
        ArtifactError: the options of the run are damaged.
    """
    recorded = read_yaml(run.options).get("weights")
    places = [run.artifacts, *([Path(recorded)] if isinstance(recorded, str) else [])]
    return next((place for place in places if (place / MANIFEST_NAME).exists()), None)


def graph_file(path: Path) -> Path:
    """Return the ONNX file that a path means: of a run the best detector.

    Raises:
        ArtifactError: it is a folder that is no run, or a run without a detector.
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
    """Return the artifacts folder that a path means: of a run the one that it is trained with.

    Raises:
        ArtifactError: it is a run whose artifacts are gone.
    """
    if (path / MANIFEST_NAME).exists() or (run := run_at(path)) is None:
        return path
    if (artifacts := artifacts_of(run)) is None:
        raise ArtifactError(
            f"{path} is a run whose artifacts ({read_yaml(run.options).get('weights')}) are gone; "
            "name the artifacts folder itself"
        )
    return artifacts
