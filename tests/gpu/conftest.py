"""Tests that need an NVIDIA GPU: torch's CUDA for the loss, ONNX Runtime's for artifacts.

`make gpu` runs them. Artifacts come from `make gpu-artifacts`, here or on another machine. With
`EXPORTLOSS_GPU=cpu` all that can run without a GPU runs on the CPU: to try the tests themselves.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from exportloss import InstallationError
from exportloss.runtime.sessions.devices import Device, check_device
from exportloss.runtime.sessions.installation import import_onnxruntime

DEVICE = os.environ.get("EXPORTLOSS_GPU", "cuda")
ARTIFACTS = Path(__file__).parents[2] / "build" / "gpu"


@pytest.fixture(scope="session")
def device() -> str:
    """`cuda`, where torch has it."""
    if DEVICE != "cpu" and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} finds no NVIDIA GPU")
    return DEVICE


@pytest.fixture(scope="session")
def cuda(device: str) -> str:
    """The same, for what the CPU cannot stand in for."""
    if device == "cpu":
        pytest.skip("is about CUDA itself")
    return device


@pytest.fixture(scope="session")
def ort_device() -> str:
    """`cuda`, where ONNX Runtime has it."""
    try:
        check_device(import_onnxruntime(), Device.parse(DEVICE))
    except InstallationError as error:
        pytest.skip(str(error))
    return DEVICE


@pytest.fixture(scope="session")
def artifacts(ort_device: str) -> Path:
    """The folder that `make gpu-artifacts` wrote."""
    if not (ARTIFACTS / "expected.json").is_file():
        pytest.skip(f"{ARTIFACTS} holds no artifacts; say `make gpu-artifacts`, or copy them there")
    return ARTIFACTS


@pytest.fixture(scope="session")
def expected(artifacts: Path) -> dict[str, Any]:
    """The settings of every step, and eager torch's losses by case."""
    content: dict[str, Any] = json.loads((artifacts / "expected.json").read_text())
    return content


@pytest.fixture(scope="session")
def batches(artifacts: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images, (B, 3, H, W) uint8, and targets, (max_targets, 6), of each step."""
    tensors = load_file(artifacts / "batches.safetensors")
    return list(zip(tensors["images"], tensors["targets"], strict=True))


@pytest.fixture
def synchronisation_is_an_error(cuda: str) -> Callable[..., Any]:
    """Call a function; torch raises where it waits for the GPU."""

    def call(function: Callable[..., Any], *arguments: Any) -> Any:
        torch.cuda.synchronize()
        try:
            with warnings.catch_warnings(action="ignore"):  # that the mode is a prototype
                torch.cuda.set_sync_debug_mode("error")
            return function(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return call
