"""Locks on open files, which the system releases when a process ends, `kill -9` included."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from filelock import lock_descriptor

__all__ = ["is_at", "lock", "open_in_place", "open_lock_file"]

# Do not follow a link, nor wait for a pipe. Windows has neither flag.
_IN_PLACE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file, or on POSIX an open folder, until it is closed.

    Returns:
        False if the system or file system has no locks, and nothing was locked.

    Raises:
        BlockingIOError: the file is locked through another descriptor, and `wait` is false.
    """
    try:
        is_locked = lock_descriptor(descriptor, blocking=wait)
    except OSError:
        return False
    if not is_locked:
        raise BlockingIOError(errno.EAGAIN, "locked through another descriptor")
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def open_in_place(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open the file or folder at a path, not a link's target, and return its descriptor.

    Raises:
        OSError: the path cannot be opened, or is a link, a pipe, a socket or a device.
    """
    if path.is_symlink():  # for systems without the flag
        raise OSError(errno.ELOOP, "it is a link")
    descriptor = os.open(path, flags | _IN_PLACE, 0o666)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is neither a file nor a folder")
    return descriptor


def open_lock_file(path: Path) -> int:
    """Open a file for locking and writing, creating it if missing; return its descriptor.

    Raises:
        OSError: the file cannot be opened, or may be the user's own: it is a link, is not a regular
            file, or has a second name elsewhere.
    """
    descriptor = open_in_place(path, os.O_RDWR | os.O_CREAT)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file with a single name")
    return descriptor
