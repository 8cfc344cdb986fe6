"""Files and folders that are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from exportloss.errors import ArtifactError, listed
from exportloss.runtime.artifact.manifest import MANIFEST_NAME, Manifest, describe_file
from exportloss.runtime.storage.locks import is_at, lock, open_in_place
from exportloss.runtime.storage.replacing import recover_folder, replace_folder

__all__ = ["check_place", "fit_name", "new_file", "new_folder", "write_artifact"]

_SUFFIX = ".tmp"
_LISTED = 3
_LONGEST_NAME = 255  # bytes
_MARK = 12  # hexadecimal digits
_IS_WINDOWS = sys.platform == "win32"
_RANDOM = 8  # characters that `tempfile` puts in a name


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there replaces `path` at the end.

    Written out to the disk, then renamed: after a crash there is the old file or the new one.
    What a crash left beside it is removed when the same file is written again.

    Raises:
        ArtifactError: the folder cannot be written to.
    """
    path = Path(path)
    with _as_artifact_error(path), _temporary(path, folder=False) as temporary:
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)


@contextlib.contextmanager
def new_folder(folder: str | Path, *, exist_ok: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `folder` that takes its place at the end.

    A folder that is replaced stays whole until then; after a crash there is the old one or the new
    one, on systems that cannot exchange two folders at the latest when it is next read or written.

    Args:
        folder: the folder to make.
        exist_ok: replace an artifacts folder that is there already, see `check_place`.

    Raises:
        ArtifactError: something is in the way, or the place cannot be written to.
    """
    folder = check_place(folder, exist_ok=exist_ok)
    with _as_artifact_error(folder), _temporary(folder, folder=True) as temporary:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        for path in temporary.iterdir():
            _sync(path)
        _sync(temporary)
        _check_vacant(folder, exist_ok)
        replace_folder(temporary, folder)
        _sync(folder.parent)


def write_artifact(temporary: Path, manifest: Manifest) -> Manifest:
    """Hash the files of a folder and write its manifest, which is returned with the hashes."""
    files = {path.name: describe_file(path) for path in sorted(temporary.iterdir())}
    complete = dataclasses.replace(manifest, files=files)
    (temporary / MANIFEST_NAME).write_text(complete.to_json(), encoding="utf-8")
    return complete


def check_place(folder: str | Path, *, exist_ok: bool = False) -> Path:
    """Check that an artifacts folder can be made here; return where that is, links resolved.

    Args:
        folder: the folder to make. Where there is one, nothing may lie in it but the files that its
            manifest names: whatever else somebody keeps there is not ours to remove.
        exist_ok: whether such a folder may be replaced.

    Raises:
        ArtifactError: something is in the way.
    """
    folder = Path(folder)
    with _as_artifact_error(folder):
        if folder.is_symlink():  # what it leads to is replaced, not the link
            folder = Path(os.path.realpath(folder))
        recover_folder(folder)
        _check_vacant(folder, exist_ok)
    return folder


def _check_vacant(folder: Path, exist_ok: bool) -> None:
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
    if foreign := _foreign_entries(folder):
        raise ArtifactError(
            f"{folder} holds {listed(foreign, _LISTED)}, which its {MANIFEST_NAME} does "
            "not name and which would be lost; move it elsewhere, or choose another output folder"
        )


def _foreign_entries(folder: Path) -> list[str]:
    """Return the names in an artifacts folder that no export wrote; of a damaged one, all."""
    try:
        own = Manifest.read(folder).files.keys() | {MANIFEST_NAME}
    except ArtifactError:
        own = {MANIFEST_NAME}
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.name not in own or entry.is_dir(follow_symlinks=False)
    )


@contextlib.contextmanager
def _as_artifact_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{path} cannot be written: {error}") from error


@contextlib.contextmanager
def _temporary(path: Path, *, folder: bool) -> Iterator[Path]:
    """Yield a new file or folder beside `path`, locked while it is in use, removed afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    prefix = _temporary_prefix(path)
    while True:
        if folder:
            temporary = Path(tempfile.mkdtemp(_SUFFIX, prefix, path.parent))
            descriptor = os.open(temporary, os.O_RDONLY)
        else:
            descriptor, name = tempfile.mkstemp(_SUFFIX, prefix, path.parent)
            temporary = Path(name)
        if not _IS_WINDOWS:  # where others, the caller too, could not write to a locked file
            lock(descriptor, wait=True)
        if is_at(descriptor, temporary):  # else another process took it for an abandoned one
            break
        os.close(descriptor)
    try:
        yield temporary
    finally:
        os.close(descriptor)
        _remove(temporary)


def _temporary_prefix(path: Path) -> str:
    """Return how the names of a path's temporary files begin."""
    return f".{fit_name(path.name, '.-' + 'x' * _RANDOM + _SUFFIX)}-"


def fit_name(stem: str, ending: str) -> str:
    """Return a file name's stem that is, with its ending, no longer than file systems take.

    One that is too long is cut, with a hash at its end, so that different ones stay different.
    """
    if len(stem) <= _LONGEST_NAME and len(os.fsencode(stem + ending)) <= _LONGEST_NAME:
        return stem
    mark = "~" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:_MARK]
    stem = stem[:_LONGEST_NAME]
    while stem and len(os.fsencode(stem + mark + ending)) > _LONGEST_NAME:
        stem = stem[:-1]
    return stem + mark


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` that no process holds: theirs was killed."""
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
