"""Locks on open files, which the system releases when a process ends, `kill -9` included."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["is_at", "lock"]


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file or folder until it is closed.

    Returns:
        False where the system or the file system has no locks; nothing is locked then.

    Raises:
        BlockingIOError: it is locked through another descriptor, and `wait` is false.
    """
    if sys.platform == "win32":
        return False
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
