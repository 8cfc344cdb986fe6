"""The lock file of a run's folder, which keeps other trainings off it."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from exportloss.errors import ArtifactError
from exportloss.runtime.storage.locks import is_at, lock, open_lock_file

__all__ = ["locked_file"]

_LONGEST_HOLDER = 200  # characters that name the holder


@contextlib.contextmanager
def locked_file(
    path: Path,
    *,
    doing: str = "trained",
    advice: str = "wait until it is done, stop it, or train into another folder",
) -> Iterator[None]:
    """Hold the lock of a file that only this package makes, and remove the file at the end.

    Args:
        path: File, whose folder is made if it is missing.
        doing: What is being done to the folder, for messages.
        advice: What to do while another process does it.

    Raises:
        ArtifactError: another process holds it, or the folder cannot be written to.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = open_lock_file(path)
        except OSError as error:
            raise ArtifactError(
                f"{path.parent} cannot be written to: {path.name}: {error}"
            ) from error
        try:
            try:
                lock(descriptor)
            except BlockingIOError as error:
                holder = _read_holder(descriptor)
                raise ArtifactError(
                    f"{path.parent} is being {doing} by {holder or 'another process'}; {advice}"
                ) from error
            if not is_at(descriptor, path):
                continue  # the previous holder has removed the file
            _tell_holder(descriptor, path)
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # a file left behind does not block the next run
                    if is_at(descriptor, path):
                        path.unlink()
            return
        finally:
            os.close(descriptor)


def _read_holder(descriptor: int) -> str:
    try:
        return os.read(descriptor, _LONGEST_HOLDER).decode(errors="replace")
    except OSError:  # Windows does not let others read a locked file
        return ""


def _tell_holder(descriptor: int, path: Path) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())
    except OSError as error:  # such as a full disk
        raise ArtifactError(f"{path} cannot be written: {error}") from error
