"""Temporary files and folders beside those that they will replace."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from exportloss.errors import ArtifactError
from exportloss.runtime.storage.locks import is_at, lock, open_in_place
from exportloss.runtime.storage.names import fit_name

__all__ = ["as_artifact_error", "sync", "temporary_beside", "umask"]

_SUFFIX = ".tmp"
_IS_WINDOWS = sys.platform == "win32"
_RANDOM = 8  # random characters in names of `tempfile`


@contextlib.contextmanager
def temporary_beside(path: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a new file or folder beside `path`, locked while it is in use, removed afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    prefix = _temporary_prefix(path)
    while True:
        temporary = _make(path.parent, prefix, folder=folder)
        if _IS_WINDOWS:  # an open file cannot be renamed, nor a locked one written to
            descriptor = None
            break
        descriptor = os.open(temporary, os.O_RDONLY)
        lock(descriptor, wait=True)
        if is_at(descriptor, temporary):  # otherwise another process removed it as abandoned
            break
        os.close(descriptor)
    try:
        yield temporary
    finally:
        if descriptor is not None:
            os.close(descriptor)
        _remove(temporary)


@contextlib.contextmanager
def as_artifact_error(path: Path) -> Iterator[None]:
    """Raise `ArtifactError` for an `OSError` in this block."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error}") from error


def sync(path: Path) -> None:
    """Flush a file or folder to the disk; Windows can flush only files."""
    if _IS_WINDOWS and path.is_dir():
        return
    # Windows flushes only files that are open for writing.
    descriptor = os.open(path, os.O_RDWR if _IS_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def umask() -> int:
    """Return the process's umask."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _make(parent: Path, prefix: str, *, folder: bool) -> Path:
    if folder:
        return Path(tempfile.mkdtemp(_SUFFIX, prefix, parent))
    descriptor, name = tempfile.mkstemp(_SUFFIX, prefix, parent)
    os.close(descriptor)
    return Path(name)


def _temporary_prefix(path: Path) -> str:
    """Return the prefix of the names of a path's temporary files."""
    return f".{fit_name(path.name, '.-' + 'x' * _RANDOM + _SUFFIX)}-"


def _remove_abandoned(path: Path) -> None:
    """Remove temporary files of `path` that no process has locked, since theirs was killed."""
    prefix = _temporary_prefix(path)
    for entry in list(os.scandir(path.parent)):
        if (
            len(entry.name) != len(prefix) + _RANDOM + len(_SUFFIX)
            or not entry.name.startswith(prefix)
            or not entry.name.endswith(_SUFFIX)
        ):
            continue
        with contextlib.suppress(OSError):
            descriptor = open_in_place(Path(entry.path))
            try:
                if not _IS_WINDOWS and lock(descriptor):
                    _remove(Path(entry.path))
            finally:
                os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
