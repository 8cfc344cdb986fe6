"""Numbered file formats: which ones this version reads, and the error for later ones."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from exportloss.errors import ArtifactError, excerpt

__all__ = ["FileFormat", "written_by_newer"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileFormat:
    """A format such as `exportloss-state/1`.

    Later formats keep the keys `format` and `sha256`, so that a damaged file is never mistaken for
    one of a later version.

    Attributes:
        family: Name before the number.
        newest: Number of the format that this version writes; it reads all from 1 to this one.
        expected: Description of the formats that are read, for messages.
        exported: Whether an export writes such files, so that exporting again replaces them.
    """

    family: str
    newest: int
    expected: str
    exported: bool = False

    def __str__(self) -> str:
        return f"{self.family}/{self.newest}"

    def number(self, found: object) -> int | None:
        """Return the number of a format of this family; None for anything else."""
        if not isinstance(found, str):
            return None
        match = re.fullmatch(rf"{re.escape(self.family)}/([1-9]\d{{0,5}})", found, re.ASCII)
        return int(match[1]) if match else None

    def check(self, found: object, path: str | Path) -> int:
        """Return the number of a format that this version reads.

        Raises:
            ArtifactError: the format is a later one, or not of this family.
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
    """Return the error for an undamaged file with values that this version does not know.

    Args:
        path: Path of the file.
        found: Description of the unknown value.
        known: Description of the values that this version reads.
        exported: Whether an export wrote the file, so that exporting again replaces it.
    """
    again = " or export again" if exported else ""
    return ArtifactError(
        f"{path} was written by a newer exportloss ({found}; this one reads {known}); upgrade "
        f"exportloss{again}"
    )
