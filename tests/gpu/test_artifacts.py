"""Artifacts that were exported elsewhere, in ONNX Runtime on a GPU: eager torch's training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from exportloss.runtime import TrainSession
from exportloss.runtime.devices import Device, captures_safely, node_counts, open_session
from exportloss.runtime.installation import import_onnxruntime
from exportloss.runtime.state import TrainState, load_state
from tests.gpu.conftest import DEVICE

CASES = ["yolov5n", "yolov5s"]
LOSS, GRADIENT, PARAMETERS = 1e-5, 2e-4, 1e-6  # relative
RUNS = 10


def vector(tensors: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([tensors[name].ravel() for name in sorted(tensors)])


def distance(one: TrainState, other: TrainState, part: str) -> float:
    """Relative L2 distance of the model's tensors, or of an optimizer's memory."""
    found, wanted = (
        vector(dict(state.model if part == "model" else state.optimizer[part]))
        for state in (one, other)
    )
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


@pytest.fixture(params=[False, True], ids=["plain", "cuda-graph"])
def cuda_graph(request, ort_device) -> bool:
    if request.param and ort_device == "cpu":
        pytest.skip("is about CUDA itself")
    if request.param and not captures_safely(import_onnxruntime()):
        pytest.skip("this onnxruntime may replay something else than it captured")
    return bool(request.param)


@pytest.mark.parametrize("case", CASES)
def test_each_step_from_eager_torchs_state(artifacts, batches, expected, case, cuda_graph):
    session = TrainSession.open(artifacts / case, device=DEVICE, cuda_graph=cuda_graph)
    states = artifacts / f"{case}-expected"
    for number, (images, targets) in enumerate(batches):
        if number:
            session.resume(states / f"eager-{number - 1}.safetensors")
        loss = session.step(images, targets, **expected["settings"]).loss
        assert loss == pytest.approx(expected["losses"][case]["eager"][number], rel=LOSS), number
        state, wanted = session.state(), load_state(states / f"eager-{number}.safetensors")
        assert distance(state, wanted, "model") <= PARAMETERS, number
        assert distance(state, wanted, "momentum") <= GRADIENT, number
    assert number == 4


def test_no_node_runs_elsewhere(artifacts, ort_device):
    if ort_device == "cpu":
        pytest.skip("is about CUDA itself")
    session = TrainSession.open(artifacts / "yolov5n", device=ort_device)
    counts = session.node_counts  # type: ignore[attr-defined]
    if not counts:
        pytest.skip("this onnxruntime does not tell; it was opened without fall-back to the CPU")
    assert set(counts) == {"CUDAExecutionProvider"}


def test_ten_runs(artifacts, ort_device, batches, expected):
    """Sums of scattered gradients come in no fixed order on a GPU: the loss is held to the bit."""
    losses, states = [], []
    for _ in range(RUNS):
        session = TrainSession.open(artifacts / "yolov5n", device=ort_device)
        losses.append(session.step(*batches[0], **expected["settings"]).loss)
        states.append(session.state())
    assert len(set(losses)) == 1
    assert max(distance(state, states[0], "model") for state in states) <= PARAMETERS


def test_evaluation_is_that_of_the_cpu(artifacts, ort_device, batches):
    one, other = (
        TrainSession.open(artifacts / "yolov5n", device=name).evaluate(*batches[0])
        for name in (ort_device, "cpu")
    )
    assert one.loss == pytest.approx(other.loss, rel=LOSS)
    np.testing.assert_allclose(one.predictions, other.predictions, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_follows_float32(artifacts, ort_device, batches, expected, precision):
    if precision == "bfloat16" and ort_device == "cpu":
        pytest.skip("ONNX Runtime has no CPU kernels for it")
    full, half = (
        TrainSession.open(artifacts / name, device=ort_device)
        for name in ("yolov5n", f"yolov5n-{precision}")
    )
    for number in range(20):
        batch = batches[number % len(batches)]
        one, other = (s.step(*batch, **expected["settings"]) for s in (half, full))
        assert not one.skipped
        assert one.loss == pytest.approx(other.loss, rel=0.01), number


def test_loss_alone(artifacts, ort_device, golden_case):
    ort, device = import_onnxruntime(), Device.parse(ort_device)
    path = artifacts / "golden" / golden_case.name / "loss.onnx"
    if not path.is_file():
        pytest.skip(f"{path} was not made: --golden names other cases")
    session = open_session(ort, path, device)
    assert set(node_counts(session)) <= set(device.providers)
    names = [output.name for output in session.get_outputs()]
    balance = golden_case.initial_balance
    for number, step in enumerate(golden_case.steps):
        inputs = {f"predictions_{i}": level for i, level in enumerate(step.predictions)}
        inputs |= {"targets": golden_case.padded(step), "balance": balance}
        values = dict(zip(names, session.run(names, inputs), strict=True))
        balance = values["new_balance"]
        assert float(values["loss"]) == pytest.approx(float(golden_case.loss[number]), rel=LOSS)
        for level, gradient in enumerate(step.gradients):
            error = np.linalg.norm(values[f"gradient_{level}"] - gradient)
            assert error <= GRADIENT * np.linalg.norm(gradient), (number, level)


def test_expected_values_are_of_these_artifacts(artifacts: Path):
    content = json.loads((artifacts / "expected.json").read_text())
    assert set(content["losses"]) == set(CASES)
