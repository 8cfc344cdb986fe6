"""What this implementation makes of the vectors' files."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from exportloss.runtime.artifact.manifest import MANIFEST_NAME, Manifest

__all__ = ["manifest_values"]


def manifest_values(content: bytes) -> dict[str, Any]:
    """Return every value of a manifest, defaults included, and the sizes of its flat vectors.

    Raises:
        ArtifactError: the manifest is refused.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MANIFEST_NAME).write_bytes(content)
        manifest = Manifest.read(folder)
    values = dataclasses.asdict(manifest)
    layout = manifest.layout
    values["layout"] = None if layout is None else layout.to_values()
    if layout is not None:
        values["parameters_size"] = layout.parameters.size
        values["statistics_size"] = layout.statistics.size
    return values
