"""Files that are complete or absent, whatever happens while they are written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from exportloss.runtime.storage.temporary import as_artifact_error, sync, temporary_beside, umask

__all__ = ["new_file"]


@contextlib.contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there replaces `path` at the end.

    Written out to the disk, then renamed: after a crash there is the old file or the new one.
    What a crash left beside it is removed when the same file is written again.

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
