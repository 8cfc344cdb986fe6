"""Locks on open files, which the system releases when a process ends, `kill -9` included."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from filelock import lock_descriptor

__all__ = ["is_at", "lock", "open_in_place", "open_lock_file"]

# A link is not followed, and a pipe not waited for; Windows has neither flag.
_IN_PLACE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file, or on POSIX an open folder, until it is closed.

    Returns:
        False where the system or the file system has no locks; nothing is locked then.

    Raises:
        BlockingIOError: it is locked through another descriptor, and `wait` is false.
    """
    try:
        is_locked = lock_descriptor(descriptor, blocking=wait)
    except OSError:
        return False
    if not is_locked:
        raise BlockingIOError(errno.EAGAIN, "locked through another descriptor")
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def open_in_place(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open what lies at a path itself, and return its descriptor.

    Raises:
        OSError: it cannot be opened, or is a link, a pipe, a socket or a device.
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
    """Open a file to lock and to write into, made where it is missing; return its descriptor.

    Raises:
        OSError: it cannot be opened, or could be somebody's: it is a link, no regular file, or has
            a second name elsewhere.
    """
    descriptor = open_in_place(path, os.O_RDWR | os.O_CREAT)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file with one name")
    return descriptor
