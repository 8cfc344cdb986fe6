"""Finding the artifacts of a resumed run, which may have been moved."""

from __future__ import annotations

from pathlib import Path

from exportloss.cli.run_paths import is_artifact
from exportloss.cli.terminal import say
from exportloss.errors import ArtifactError, ConfigError
from exportloss.runtime.artifact.manifest import MANIFEST_NAME
from exportloss.runtime.storage.replacing import recover_folder
from exportloss.runtime.training.origin import file_digest, read_origin
from exportloss.runtime.training.run_folder import RunFolder

__all__ = ["artifacts_to_resume"]


def artifacts_to_resume(run: RunFolder, recorded: str | None, said: str | None) -> Path:
    """Return the artifacts folder of a run that is resumed.

    Args:
        run: Run to resume.
        recorded: Folder that the run's options name.
        said: Folder of `--artifacts`; None without that option.

    Raises:
        ArtifactError: There is no such folder, or the record of the run's origin is damaged.
        ConfigError: The folder holds other artifacts than the run was started with.
    """
    own = is_artifact(run.artifacts)
    folder = Path(said or (run.artifacts if own else recorded or run.artifacts))
    recover_folder(folder)
    if not is_artifact(folder):
        raise ArtifactError(
            f"{folder} is no artifacts folder (it has no {MANIFEST_NAME}), and {run.path} was "
            "started with artifacts; name the folder that they were moved to with --artifacts: it "
            "is taken if it is the same"
        )
    if said is not None:
        _check_same(run, folder)
    return folder


def _check_same(run: RunFolder, folder: Path) -> None:
    origin = read_origin(run.origin)
    expected = "" if origin is None else origin.manifest_digest
    if not expected:
        say(f"note: {run.path} does not record what its artifacts were: {folder} is not compared")
    elif (found := file_digest(folder / MANIFEST_NAME)) != expected:
        raise ConfigError(
            f"{folder}: {MANIFEST_NAME} has sha256 {found[:12]}..., not {expected[:12]}... as when "
            f"{run.path} was started; name the same artifacts, or start a new run with these"
        )
