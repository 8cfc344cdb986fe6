"""What an earlier version wrote (see `compat/README.md`), and the batches it was trained on."""

from __future__ import annotations

import functools
import io
import lzma
import tarfile
from pathlib import Path

import numpy as np

COMPAT = Path(__file__).parents[1] / "compat"


def unpack(version: str, folder: Path) -> Path:
    """Unpack the folders of a version into a new folder, which is returned."""
    destination = folder / version
    with tarfile.open(fileobj=io.BytesIO(_archive(version))) as archive:
        archive.extractall(destination, filter="data")
    return destination


@functools.cache
def _archive(version: str) -> bytes:
    return lzma.decompress((COMPAT / f"{version}.tar.xz").read_bytes())


def make_batch(number: int) -> tuple[np.ndarray, np.ndarray]:
    """(2, 3, 64, 64) uint8 and 5 target rows."""
    rng = np.random.default_rng(number)
    images = rng.integers(0, 256, (2, 3, 64, 64), np.uint8)
    boxes = rng.uniform(0.2, 0.7, (5, 4))
    rows = np.column_stack(([0, 0, 1, 1, 1], rng.integers(0, 3, 5), boxes)).astype(np.float32)
    return images, rows
