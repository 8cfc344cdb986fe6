"""Manifests that say something else than was exported, and are whole all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from exportloss.runtime.artifact.checksum import add_text_checksum


def edit_manifest(folder: Path, **changes: Any) -> Path:
    """Change top-level fields of a folder's manifest; return the folder."""
    path = folder / "manifest.json"
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    text = json.dumps({"sha256": ""} | values | {"sha256": ""})
    path.write_text(add_text_checksum(text), encoding="utf-8")
    return folder


def read_values(folder: Path) -> dict[str, Any]:
    """Return what a folder's manifest holds."""
    values: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return values
