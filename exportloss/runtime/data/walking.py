"""The files below a folder, each once whatever the links."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

__all__ = ["describe_entry", "describe_skipped", "files_below", "find_matches", "is_irregular"]

_ANY_FOLDERS = "**"
_KINDS = (
    (stat.S_ISDIR, "is a folder"),
    (stat.S_ISFIFO, "is a pipe"),
    (stat.S_ISSOCK, "is a socket"),
    (stat.S_ISCHR, "is a device"),
    (stat.S_ISBLK, "is a device"),
)


def files_below(
    folder: str | Path,
    *,
    onerror: Callable[[OSError], None] | None = None,
    onskip: Callable[[Path], None] | None = None,
) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders; hidden files and folders are skipped.

    Links to folders are followed after all real folders. Each folder is visited once, whatever its
    name, so that neither loops nor links to links repeat files.

    Args:
        folder: Folder to begin with.
        onerror: Function called with the error of each folder that cannot be read; by default
            they are skipped.
        onskip: Function called with each skipped entry that is neither file nor folder, see
            `is_irregular`. None of them is opened.
    """
    visited: set[tuple[int, int]] = set()
    links = [os.fspath(folder)]
    while links:
        waiting, links = links[::-1], []
        while waiting:
            name = waiting.pop()
            try:
                status = os.stat(name)  # noqa: PTH116 - faster, for millions of folders
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
            for entry in shown:
                if _is(entry.is_file):
                    yield Path(entry.path)
                elif onskip is not None and not _is(entry.is_dir):
                    onskip(Path(entry.path))


def _is(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # such as a link to itself
        return False


def is_irregular(path: str | Path) -> bool:
    """Return whether a path is neither file nor folder: a broken link, pipe, socket or device."""
    return (
        os.path.lexists(path)
        and not os.path.isfile(path)  # noqa: PTH113 - unlike Path's, these never raise
        and not os.path.isdir(path)  # noqa: PTH112
    )


def describe_entry(path: str | Path) -> str:
    """Return in words what a path is that is no regular file, such as "is a pipe"."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - never opens
    except ValueError as error:  # a path with a null byte, say
        return f"cannot be reached: {error}"
    except OSError as error:
        if os.path.islink(path):  # noqa: PTH114
            return f"is a broken link to {os.readlink(path)}"  # noqa: PTH115
        missing = isinstance(error, FileNotFoundError)
        return "does not exist" if missing else f"cannot be reached: {error.strerror}"
    if stat.S_ISDIR(mode) and not os.access(path, os.R_OK | os.X_OK):
        return "is a folder that cannot be read"
    return next((words for is_kind, words in _KINDS if is_kind(mode)), "is no regular file")


def describe_skipped(skipped: Sequence[Path]) -> str:
    """Return in words how many entries, at least one, were skipped, and what the first is."""
    count = "1 entry is skipped" if len(skipped) == 1 else f"{len(skipped)} entries are skipped"
    return f"{count}: {skipped[0]} {describe_entry(skipped[0])}"


def find_matches(pattern: str, *, onskip: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield the matches of a pattern such as `photos/**/*.jpg`, like `glob`, but each file once.

    Args:
        pattern: Path with `*`, `?` and `[...]` within names, and `**` for any number of folders.
        onskip: Function called with each skipped match that is neither file nor folder, and with
            `**` also with folders that cannot be read.
    """
    tell = onskip or (lambda path: None)
    parts = Path(pattern).parts
    if _ANY_FOLDERS not in parts:
        for path in map(Path, glob.iglob(pattern)):  # noqa: PTH207 - takes absolute patterns
            if is_irregular(path):
                tell(path)
            else:
                yield path
        return
    first = parts.index(_ANY_FOLDERS)
    for folder in glob.iglob(str(Path(*parts[:first]))):  # noqa: PTH207
        skipped: list[Path] = []
        for path in files_below(folder, onerror=_folder_to(tell), onskip=skipped.append):
            if _fits(path.relative_to(folder).parts, parts[first:]):
                yield path
        for path in skipped:
            if _fits(path.relative_to(folder).parts, parts[first:]):
                tell(path)


def _folder_to(tell: Callable[[Path], None]) -> Callable[[OSError], None]:
    return lambda error: tell(Path(error.filename))


def _fits(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Return whether a path below a folder matches a pattern."""
    reached = {0}  # numbers of names that the pattern so far can match
    for part in pattern:
        if part == _ANY_FOLDERS:
            reached = set(range(min(reached), len(names) + 1)) if reached else reached
        else:
            reached = {
                at + 1 for at in reached if at < len(names) and fnmatch.fnmatchcase(names[at], part)
            }
    return len(names) in reached
