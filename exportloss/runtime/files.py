"""Files and folders that are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from exportloss.errors import ArtifactError
from exportloss.runtime.manifest import MANIFEST_NAME, Manifest, describe_file

__all__ = ["new_file", "new_folder", "write_artifact"]


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there replaces `path` at the end.

    Written out to the disk, then renamed: after a crash there is the old file or the new one.

    Raises:
        ArtifactError: the folder cannot be written to.
    """
    path = Path(path)
    with _as_artifact_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        os.close(handle)
    temporary = Path(name)
    try:
        with _as_artifact_error(path):
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: str | Path, *, exist_ok: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that takes its place at the end.

    Args:
        folder: the folder to make.
        exist_ok: replace an artifacts folder that is there already. Anything else that is there
            is never touched.

    Raises:
        ArtifactError: something is in the way, or the place cannot be written to.
    """
    folder = Path(folder)
    _check_place(folder, exist_ok)
    with _as_artifact_error(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with _as_artifact_error(folder):
            yield temporary
            temporary.chmod(0o777 & ~_umask())
            for path in temporary.iterdir():
                _sync(path)
            _sync(temporary)
            _check_place(folder, exist_ok)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.replace(folder)
            _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_artifact(temporary: Path, manifest: Manifest) -> Manifest:
    """Hash the files of a folder and write its manifest, which is returned with the hashes."""
    files = {path.name: describe_file(path) for path in sorted(temporary.iterdir())}
    complete = dataclasses.replace(manifest, files=files)
    (temporary / MANIFEST_NAME).write_text(complete.to_json(), encoding="utf-8")
    return complete


def _check_place(folder: Path, exist_ok: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / MANIFEST_NAME).is_file():
        raise ArtifactError(
            f"{folder} exists and is no artifacts folder; choose another output folder"
        )
    if not exist_ok:
        raise ArtifactError(
            f"{folder} exists already; choose another output folder, or say --exist-ok "
            "(exist_ok=True) to replace it"
        )


@contextlib.contextmanager
def _as_artifact_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error}") from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
