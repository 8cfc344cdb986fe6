"""The numbered formats of files: what this version reads, and what it says of later ones."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from exportloss.errors import ArtifactError, excerpt

__all__ = ["FileFormat", "written_by_newer"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileFormat:
    """A format such as `exportloss-state/1`.

    A later format keeps `format` and `sha256` as they are, so that damage to a file is never taken
    for a later version.

    Attributes:
        family: Name before the number.
        newest: Number of the format that this version writes; it reads all from 1 on.
        expected: Description of what is read, for messages.
        exported: Whether files of the format are made by an export, which can be repeated.
    """

    family: str
    newest: int
    expected: str
    exported: bool = False

    def __str__(self) -> str:
        return f"{self.family}/{self.newest}"

    def number(self, found: object) -> int | None:
        """Return the number of a format of this family; None if it is of none."""
        if not isinstance(found, str):
            return None
        match = re.fullmatch(rf"{re.escape(self.family)}/([1-9]\d{{0,5}})", found, re.ASCII)
        return int(match[1]) if match else None

    def check(self, found: object, path: str | Path) -> int:
        """Return the number of a format that this version reads.

        Raises:
            ArtifactError: The format is a later one, or of something else.
        """
        number = self.number(found)
        if number is None:
            raise ArtifactError(f"{path} has format {excerpt(repr(found))}; {self.expected}")
        if number > self.newest:
            raise written_by_newer(
                path, f"format {number}", f"up to {self.newest}", exported=self.exported
            )
        return number


def written_by_newer(
    path: str | Path, found: str, known: str, *, exported: bool = False
) -> ArtifactError:
    """Return the error for a file that is whole and holds what this version does not know.

    Args:
        path: File.
        found: Description of what it holds.
        known: Description of what this version reads.
        exported: Whether the file was made by an export, which can be repeated.
    """
    again = " or export again" if exported else ""
    return ArtifactError(
        f"{path} was written by a newer exportloss ({found}; this one reads {known}); upgrade "
        f"exportloss{again}"
    )
