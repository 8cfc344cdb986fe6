"""The text of `manifest.json`: JSON of a numbered format, with the sha256 of the rest of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exportloss.errors import ArtifactError
from exportloss.reading import read_bounded
from exportloss.runtime.artifact.checksum import seal_text, text_is_whole
from exportloss.runtime.artifact.file_format import FileFormat
from exportloss.runtime.artifact.limits import MAX_MANIFEST_BYTES
from exportloss.runtime.storage.replacing import recover_folder

__all__ = ["MANIFEST_NAME", "format_manifest", "read_manifest_file"]

MANIFEST_NAME = "manifest.json"
# Manifests of exportloss/1, which 0.1 wrote, have no sha256 of their own.
_FORMAT = FileFormat(
    family="exportloss",
    newest=2,
    expected="this version opens 'exportloss/1' and 'exportloss/2'",
    exported=True,
)


def format_manifest(values: Mapping[str, Any]) -> str:
    """Return the text of a manifest that holds these values."""
    content = {"sha256": "", "format": str(_FORMAT), **values}
    return seal_text(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_manifest_file(folder: str | Path) -> tuple[dict[str, Any], bool]:
    """Read the manifest of a folder.

    Returns:
        Its values, of which nothing is checked yet, and whether its sha256 says that they are what
        was written.

    Raises:
        ArtifactError: the folder has none, or it is damaged, or of a format that is not known.
    """
    path = Path(folder) / MANIFEST_NAME
    recover_folder(Path(folder))
    try:
        content = read_bounded(path, MAX_MANIFEST_BYTES, error=ArtifactError)
        values = json.loads(content.decode())
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder} is no artifacts folder: it has no {MANIFEST_NAME}; "
            "make one with `exportloss export`"
        ) from error
    except ArtifactError:
        raise
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not readable: {error}; export again") from error
    found = values.get("format") if isinstance(values, dict) else None
    number = _FORMAT.number(found)
    is_sealed = number == _FORMAT.newest or (number is not None and "sha256" in values)
    if is_sealed and not text_is_whole(content, values.get("sha256")):
        raise ArtifactError(
            f"{path} is damaged or was edited: its content does not match its sha256; copy the "
            "folder again, or export again"
        )
    _FORMAT.check(found, path)
    return values, is_sealed
