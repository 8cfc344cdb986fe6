"""Artifacts folders that are complete or absent, whatever interrupts their writing."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from exportloss.errors import ArtifactError, listed
from exportloss.runtime.artifact.manifest import MANIFEST_NAME, Manifest, describe_file
from exportloss.runtime.storage.replacing import recover_folder, replace_folder
from exportloss.runtime.storage.temporary import as_artifact_error, sync, temporary_beside, umask

__all__ = ["check_place", "new_folder", "write_artifact"]

_LISTED = 3


@contextlib.contextmanager
def new_folder(folder: str | Path, *, exist_ok: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that takes its place at the end.

    The old folder stays whole until then. After a crash there is the old one or the new one; on
    systems that cannot exchange two folders, the next read or write restores it.

    Args:
        folder: Folder to make.
        exist_ok: Whether to replace an existing artifacts folder, see `check_place`.

    Raises:
        ArtifactError: `folder` exists and may not be replaced, or cannot be written.
    """
    folder = check_place(folder, exist_ok=exist_ok)
    with as_artifact_error(folder), temporary_beside(folder, folder=True) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~umask())
        for path in temporary.iterdir():
            sync(path)
        sync(temporary)
        _check_vacant(folder, exist_ok)
        replace_folder(temporary, folder)
        sync(folder.parent)


def write_artifact(temporary: Path, manifest: Manifest) -> Manifest:
    """Hash the files of a folder, write its manifest and return it with the hashes."""
    files = {path.name: describe_file(path) for path in sorted(temporary.iterdir())}
    complete = dataclasses.replace(manifest, files=files)
    (temporary / MANIFEST_NAME).write_text(complete.to_json(), encoding="utf-8")
    return complete


def check_place(folder: str | Path, *, exist_ok: bool = False) -> Path:
    """Check that an artifacts folder can be made at a path; return the path with links resolved.

    Args:
        folder: Folder to make. An existing one may hold only the files that its manifest names,
            since the user's own files must not be removed.
        exist_ok: Whether such a folder may be replaced.

    Raises:
        ArtifactError: `folder` exists and may not be replaced.
    """
    folder = Path(folder)
    with as_artifact_error(folder):
        if folder.is_symlink():  # its target is replaced, not the link
            folder = Path(os.path.realpath(folder))
        recover_folder(folder)
        _check_vacant(folder, exist_ok)
    return folder


def _check_vacant(folder: Path, exist_ok: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST_NAME).is_file():
        raise ArtifactError(
            f"{folder} exists and is not an artifacts folder; choose another output folder"
        )
    if not exist_ok:
        raise ArtifactError(
            f"{folder} exists already; choose another output folder, or pass exist_ok=True to "
            "replace it",
            argument="exist_ok",
        )
    if foreign := _foreign_entries(folder):
        raise ArtifactError(
            f"{folder} holds {listed(foreign, _LISTED)}, which its {MANIFEST_NAME} does not name "
            "and which would be lost; move it elsewhere, or choose another output folder"
        )


def _foreign_entries(folder: Path) -> list[str]:
    """Return the names in an artifacts folder that no export wrote; if it is damaged, all."""
    try:
        own = Manifest.read(folder).files.keys() | {MANIFEST_NAME}
    except ArtifactError:
        own = {MANIFEST_NAME}
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name not in own or entry.is_dir(follow_symlinks=False)
    )
