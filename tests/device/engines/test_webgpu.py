"""WebGPU trains as ONNX Runtime's CPU provider does, on SwiftShader: Chromium's GPU in software."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from exportloss.runtime import LossSession, TrainSession
from tests.device.engines.steps import CASES, bounds, differences_by_step, relative_l2

pytest.importorskip("onnxruntime_ep_webgpu", reason="onnxruntime-ep-webgpu is not installed")

SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
IMAGE, BATCH, STEPS = 64, 2, 5  # of the small detector


@pytest.fixture(scope="module", autouse=True)
def swiftshader():
    """Make SwiftShader the GPU; whether it can be is tried in a process of its own."""
    if not SWIFTSHADER.is_file():
        pytest.skip(f"SwiftShader is not there: no {SWIFTSHADER}, which Debian's chromium brings")
    given = {
        "VK_ICD_FILENAMES": str(SWIFTSHADER),
        "ORT_WEBGPU_EP_ALLOW_SOFTWARE_ADAPTER": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        tried = subprocess.run(
            [sys.executable, "-c", "import ctypes; ctypes.CDLL('libvulkan.so.1')"],
            capture_output=True,
            check=False,
            env=os.environ | given,
        )
        if tried.returncode:
            pytest.skip("Vulkan's loader is not there: no libvulkan.so.1")
        yield


@pytest.fixture(scope="module")
def small_batches():
    rng = np.random.default_rng(0)
    targets = np.zeros((STEPS, 6, 6), np.float32)
    targets[..., 0] = np.sort(rng.integers(0, BATCH, (STEPS, 6)))
    targets[..., 1] = rng.integers(0, 3, (STEPS, 6))
    targets[..., 2:4] = rng.uniform(0, 1, (STEPS, 6, 2))
    targets[..., 4:] = rng.uniform(0.1, 0.8, (STEPS, 6, 2))
    images = rng.integers(0, 256, (STEPS, BATCH, 3, IMAGE, IMAGE), dtype=np.uint8)
    return list(zip(images, targets, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_steps_from_the_same_states(device, small_batches, expected, case):
    folder = device / f"small-{case}"
    session = TrainSession.open(folder, device="webgpu", threads=1)
    assert "WebGpuExecutionProvider of onnxruntime-ep-webgpu" in session.engine
    on_gpu = session.node_counts["WebGpuExecutionProvider"]
    assert on_gpu > 0.9 * sum(session.node_counts.values())
    for found in differences_by_step(session, folder, small_batches, expected["settings"]):
        for name, bound in bounds(case).items():
            assert found[name] <= bound, name


def test_a_run_of_its_own(device, small_batches, expected):
    sessions = [
        TrainSession.open(device / "small-sgd", device=name, threads=1)
        for name in ("webgpu", "cpu")
    ]
    for batch in small_batches:
        losses = [session.step(*batch, **expected["settings"]).loss for session in sessions]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    losses = [session.evaluate(*small_batches[0]).loss for session in sessions]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("rows", [4, 12])
def test_loss_alone(device, batches, rows):
    session = LossSession.open(device / "loss", device="webgpu", threads=1)
    expected = load_file(device / "loss-expected.safetensors")
    inputs = {name: expected[name] for name in session.input_shapes}
    result = session.compute(inputs, batches[0][1][:rows])
    assert result.loss == pytest.approx(expected[f"{rows}/loss"].item(), rel=1e-6)
    for name, value in result.gradients.items():
        assert relative_l2([value.numpy()], [expected[f"{rows}/{name}"]]) <= 1e-6, name
