"""The files below a folder, each once, whatever links there are."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["files_below", "find_matches"]

_ANY_FOLDERS = "**"


def files_below(
    folder: str | Path, *, onerror: Callable[[OSError], None] | None = None
) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders; hidden files and folders are passed over.

    Links to folders are followed, after all folders that are none. Each folder is visited once by
    whatever name: a link to one that was visited leads nowhere, so that neither a loop nor links
    to links multiply what is found.

    Args:
        folder: where to begin.
        onerror: told of folders that cannot be read; by default they are passed over.
    """
    visited: set[tuple[int, int]] = set()
    links = [os.fspath(folder)]
    while links:
        waiting, links = links[::-1], []
        while waiting:
            name = waiting.pop()
            try:
                status = os.stat(name)  # noqa: PTH116 - of millions of folders
                if (identity := (status.st_dev, status.st_ino)) in visited:
                    continue
                visited.add(identity)
                with os.scandir(name) as entries:
                    shown = sorted(
                        (entry for entry in entries if not entry.name.startswith(".")),
                        key=lambda entry: entry.name,
                    )
            except OSError as error:
                if onerror is not None:
                    onerror(error)
                continue
            folders = [entry for entry in shown if _is(entry.is_dir)]
            waiting += [entry.path for entry in reversed(folders) if not entry.is_symlink()]
            links += [entry.path for entry in folders if entry.is_symlink()]
            yield from (Path(entry.path) for entry in shown if _is(entry.is_file))


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link to itself, say
        return False


def find_matches(pattern: str) -> Iterator[Path]:
    """Yield what matches a pattern such as `photos/**/*.jpg`, as `glob` does, but each file once.

    Args:
        pattern: with `*`, `?` and `[...]` within names, and `**` for any number of folders.
    """
    parts = Path(pattern).parts
    if _ANY_FOLDERS not in parts:
        yield from map(Path, glob.iglob(pattern))  # noqa: PTH207 - takes absolute patterns
        return
    first = parts.index(_ANY_FOLDERS)
    for folder in glob.iglob(str(Path(*parts[:first]))):  # noqa: PTH207
        for path in files_below(folder):
            if _fits(path.relative_to(folder).parts, parts[first:]):
                yield path


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a path below a folder matches a pattern."""
    reached = {0}  # how many names the pattern up to here can account for
    for part in pattern:
        if part == _ANY_FOLDERS:
            reached = set(range(min(reached), len(names) + 1)) if reached else reached
        else:
            reached = {
                at + 1 for at in reached if at < len(names) and fnmatch.fnmatchcase(names[at], part)
            }
    return len(names) in reached
