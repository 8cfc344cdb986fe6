"""What the first environment exported for these tests: see `make_artifacts.py`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from exportloss.demo.dataset import SHAPE_NAMES, make_shapes

# Some tests import onnxruntime by themselves, which reports to its maker unless it is told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
# So does openvino, by this package.
sys.modules.setdefault("openvino_telemetry", None)

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


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Shapes, as many classes as the artifact has."""
    recipe = make_shapes(tmp_path_factory.mktemp("data") / "shapes", train=6, val=2, size=128)
    text = recipe.read_text().replace(f"  3: {SHAPE_NAMES[3]}\n", "")
    for labels in recipe.parent.rglob("labels/**/*.txt"):
        kept = [line for line in labels.read_text().splitlines() if not line.startswith("3 ")]
        labels.write_text("".join(f"{line}\n" for line in kept))
    data = recipe.with_name("three.yaml")
    data.write_text(text)
    return data
