"""The text of `manifest.json`: JSON of a numbered format, with a checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exportloss.errors import ArtifactError
from exportloss.reading import read_bounded
from exportloss.runtime.artifact.checksum import add_text_checksum, text_is_whole
from exportloss.runtime.artifact.file_format import FileFormat
from exportloss.runtime.artifact.limits import MAX_MANIFEST_BYTES
from exportloss.runtime.storage.replacing import recover_folder

__all__ = ["MANIFEST_NAME", "format_manifest", "read_manifest_file"]

MANIFEST_NAME = "manifest.json"
# Manifests of exportloss/1, which 0.1 wrote, have no checksum. Only those of exportloss/3 name the
# kind of the loss. Manifests with YOLOv5's are still written as exportloss/2, so that readers that
# know no other loss open them.
_FORMAT = FileFormat(
    family="exportloss",
    newest=3,
    expected="this version opens 'exportloss/1' to 'exportloss/3'",
    exported=True,
)


def format_manifest(values: Mapping[str, Any], *, number: int) -> str:
    """Return the text of a manifest with these values, in the format of this number."""
    content = {"sha256": "", "format": f"{_FORMAT.family}/{number}", **values}
    return add_text_checksum(json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_manifest_file(folder: str | Path) -> tuple[dict[str, Any], bool]:
    """Read the manifest of a folder.

    Returns:
        The unchecked values, and whether the manifest has a checksum, which it then matches.

    Raises:
        ArtifactError: the manifest is missing, damaged, or of an unknown format.
    """
    path = Path(folder) / MANIFEST_NAME
    recover_folder(Path(folder))
    try:
        content = read_bounded(path, MAX_MANIFEST_BYTES, error=ArtifactError)
        values = json.loads(content.decode(), parse_constant=_refuse_constant)
    except FileNotFoundError as error:
        raise ArtifactError(
            f"{folder} is not an artifacts folder: it has no {MANIFEST_NAME}; "
            "make one with `exportloss export`"
        ) from error
    except ArtifactError:
        raise
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not readable: {error}; export again") from error
    found = values.get("format") if isinstance(values, dict) else None
    number = _FORMAT.number(found)
    has_checksum = number is not None and (1 < number <= _FORMAT.newest or "sha256" in values)
    if has_checksum and not text_is_whole(content, values.get("sha256")):
        raise ArtifactError(
            f"{path} is damaged or was edited: its content does not match its sha256; copy the "
            "folder again, or export again"
        )
    _FORMAT.check(found, path)
    return values, has_checksum


def _refuse_constant(word: str) -> None:
    """Refuse what Python's reader takes and JSON lacks."""
    raise ValueError(f"{word} is not JSON")
