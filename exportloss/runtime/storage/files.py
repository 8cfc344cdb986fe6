"""Files that are complete or absent, whatever interrupts their writing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from exportloss.runtime.storage.temporary import as_artifact_error, sync, temporary_beside, umask

__all__ = ["new_file"]


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; the file written there replaces `path` at the end.

    The file is synced to the disk and then renamed: after a crash there is the old file or the new
    one. A temporary file that a crash leaves is removed when `path` is next written.

    Raises:
        ArtifactError: the folder cannot be written to.
    """
    path = Path(path)
    with as_artifact_error(path), temporary_beside(path, folder=False) as temporary:
        yield temporary
        temporary.chmod(0o666 & ~umask())
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
