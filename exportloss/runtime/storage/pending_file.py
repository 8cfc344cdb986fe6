"""A file written over a long time, which is complete at the end or absent."""

from __future__ import annotations

from pathlib import Path

from exportloss.runtime.storage.files import new_file

__all__ = ["PendingFile"]


class _AbandonedError(Exception):
    """Signals to `new_file` that its file will not be completed."""


class PendingFile:
    """`new_file` without a block, so that errors of other work meanwhile do not pass through it.

    Args:
        target: File to write, unchanged until `complete`.

    Attributes:
        target: File to write.
        path: Temporary file to write to until then.

    Raises:
        ArtifactError: the folder cannot be written to.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._manager = new_file(target)
        self.path = self._manager.__enter__()

    def complete(self) -> None:
        """Replace the target by the temporary file.

        Raises:
            ArtifactError: the target cannot be written.
        """
        self._manager.__exit__(None, None, None)

    def abandon(self) -> None:
        """Remove the temporary file; no-op after `complete`."""
        error = _AbandonedError()
        self._manager.__exit__(_AbandonedError, error, None)
