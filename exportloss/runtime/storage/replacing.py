"""Replacement of a folder by another, such that a crash loses neither."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
from pathlib import Path

__all__ = ["recover_folder", "replace_folder"]

_CURRENT_FOLDER, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE


def replace_folder(new: Path, folder: Path) -> None:
    """Rename `new` to `folder`, atomically if the system can, and remove the old folder.

    Raises:
        OSError: `new` cannot be renamed; `folder` is then unchanged.
    """
    if not folder.exists():
        new.replace(folder)
        return
    old = new
    if not _exchange(new, folder):
        old = _set_aside(folder)
        if old.is_dir():  # rmtree would wait for a pipe's writer
            shutil.rmtree(old, ignore_errors=True)
        # After a crash between the two renames, `recover_folder` restores `folder`.
        folder.replace(old)
        try:
            new.replace(folder)
        except OSError:
            old.replace(folder)
            raise
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Restore a folder that a crash in `replace_folder` has left set aside."""
    old = _set_aside(folder)
    with contextlib.suppress(OSError):  # on a read-only disk it stays set aside
        if old.is_dir() and not old.is_symlink() and not os.path.lexists(folder):
            old.replace(folder)


def _set_aside(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.replaced"


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths atomically, and return whether that was possible.

    Uses Linux's renameat2(2), which other systems and some file systems lack.
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    paths = (os.fsencode(one), os.fsencode(other))
    done: int = rename(_CURRENT_FOLDER, paths[0], _CURRENT_FOLDER, paths[1], _EXCHANGE)
    return done == 0
