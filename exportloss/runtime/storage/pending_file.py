"""A file that is written over a long time: complete at the end, or absent."""

from __future__ import annotations

from pathlib import Path

from exportloss.runtime.storage.files import new_file

__all__ = ["PendingFile"]


class _AbandonedError(Exception):
    """Tells `new_file` that its file will not be completed."""


class PendingFile:
    """`new_file` without a block: errors of what else is done meanwhile do not pass through it.

    Args:
        target: the file; until `complete` it stays as it is.

    Attributes:
        target: the file.
        path: where to write until then.

    Raises:
        ArtifactError: the folder cannot be written to.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._manager = new_file(target)
        self.path = self._manager.__enter__()

    def complete(self) -> None:
        """Put what was written in its place.

        Raises:
            ArtifactError: that fails.
        """
        self._manager.__exit__(None, None, None)

    def abandon(self) -> None:
        """Remove what was written; does nothing after `complete`."""
        error = _AbandonedError()
        self._manager.__exit__(_AbandonedError, error, None)
