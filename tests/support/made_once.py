"""Folders that are made once for all processes of a test run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

__all__ = ["made_once"]


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """Return the folder `name`, which `make` fills in the first process that asks for it.

    The others wait for it. So an export that takes a tenth of a minute is not done again in every
    worker of pytest-xdist; the folder is to be read only.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers of this run
    base = base / "made-once"
    base.mkdir(exist_ok=True)
    with FileLock(base / f"{name}.lock"):
        folder, complete = base / name, base / f"{name}.complete"
        if not complete.exists():
            make(folder)
            complete.touch()
    return folder
