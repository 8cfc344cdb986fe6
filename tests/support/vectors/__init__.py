"""Test vectors of the formats, for implementations in any language: see `tests/vectors/README.md`.

`python -m tests.support.vectors` writes them again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.support.vectors import (
    detectors,
    folders,
    images,
    layouts,
    manifests,
    metrics,
    schedules,
    states,
    suppression,
    targets,
)
from tests.support.vectors.text import lines

__all__ = ["VECTORS", "make_vectors"]

VECTORS = Path(__file__).parents[2] / "vectors"

_MAKERS: dict[str, Callable[[dict[str, bytes]], list[object]]] = {
    "detectors.json": detectors.make,
    "folders.json": folders.make,
    "images.json": images.make,
    "layouts.json": layouts.make,
    "manifests.json": manifests.make,
    "metrics.json": metrics.make,
    "schedules.json": schedules.make,
    "states.json": states.make,
    "nms.json": suppression.make,
    "targets.json": targets.make,
}


def make_vectors() -> dict[str, bytes]:
    """Return the content of every file of the vectors, by path within their folder."""
    files: dict[str, bytes] = {}
    for name, make in _MAKERS.items():
        cases = make(files)  # which adds the files that its cases name
        files[name] = lines(cases)
    return files
