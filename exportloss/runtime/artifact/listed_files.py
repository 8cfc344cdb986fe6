"""The files of an artifacts folder, which its manifest lists with size and sha256."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from exportloss.errors import ArtifactError, excerpt
from exportloss.reading import read_bounded, sha256_of
from exportloss.runtime.artifact.limits import MAX_ARTIFACT_FILES, MAX_MODEL_BYTES, MAX_STATE_BYTES

__all__ = ["STATE_NAME", "FileEntry", "describe_file", "read_listed_files"]

STATE_NAME = "state.safetensors"  # of the portable step
_LONGEST_NAME = 255  # characters of a file's name


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileEntry:
    """A file of an artifacts folder.

    Attributes:
        sha256: Digest of the content, in hexadecimal.
        size: Size in bytes.
    """

    sha256: str
    size: int


def describe_file(path: Path) -> FileEntry:
    """Return size and sha256 of a file."""
    with path.open("rb") as file:
        digest = sha256_of(file)
    return FileEntry(sha256=digest, size=path.stat().st_size)


def read_listed_files(
    folder: str | Path, files: Mapping[str, FileEntry]
) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of every file, once its size and sha256 have been checked.

    Raises:
        ArtifactError: a file is missing, is a link, lies outside the folder, or differs from the
            exported one.
    """
    if len(files) > MAX_ARTIFACT_FILES:
        raise ArtifactError(
            f"{folder}: the manifest names {len(files)} files; expected at most "
            f"{MAX_ARTIFACT_FILES}"
        )
    for name in files:
        is_plain = name not in ("", "..") and name.isprintable() and len(name) <= _LONGEST_NAME
        if Path(name).name != name or not is_plain:
            named = excerpt(repr(name))
            raise ArtifactError(f"{folder}: the manifest names {named}, outside the folder")
    for name, entry in files.items():
        yield name, _read_listed_file(Path(folder) / name, entry)


def _read_listed_file(path: Path, entry: FileEntry) -> bytes:
    most = MAX_STATE_BYTES if path.suffix == Path(STATE_NAME).suffix else MAX_MODEL_BYTES
    if entry.size > most:
        raise ArtifactError(f"{path} has {entry.size} bytes; expected at most {most}")
    try:
        content = read_bounded(path, most, error=ArtifactError, follow=False)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing; export again or copy the folder again") from error
    if len(content) != entry.size:
        raise ArtifactError(
            f"{path} is damaged: it has {len(content)} bytes, the manifest says {entry.size}; "
            "export again or copy the folder again"
        )
    if (found := hashlib.sha256(content).hexdigest()) != entry.sha256:
        raise ArtifactError(
            f"{path} is damaged: its sha256 is {found[:12]}..., the manifest says "
            f"{excerpt(entry.sha256, 12)}; export again or copy the folder again"
        )
    return content
