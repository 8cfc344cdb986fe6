"""What the first environment exported for these tests: see `make_artifacts.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

DEVICE = Path(__file__).parents[2] / "build" / "device"


@pytest.fixture(scope="session")
def device() -> Path:
    """The folder of artifacts and expected values."""
    if not (DEVICE / "expected.json").is_file():
        pytest.fail(f"{DEVICE} holds no artifacts; say `make test`", pytrace=False)
    return DEVICE


@pytest.fixture(scope="session")
def expected(device: Path) -> dict[str, Any]:
    """The settings of every step, and the losses by case and reference."""
    content: dict[str, Any] = json.loads((device / "expected.json").read_text())
    return content


@pytest.fixture(scope="session")
def batches(device: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images, (B, 3, H, W) uint8, and targets, (max_targets, 6), of each step."""
    tensors = load_file(device / "batches.safetensors")
    return list(zip(tensors["images"], tensors["targets"], strict=True))
