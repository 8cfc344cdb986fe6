"""Artifacts that were exported elsewhere, in ONNX Runtime on a GPU: eager torch's training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from exportloss.runtime import LossSession, TrainSession
from exportloss.runtime.artifact.state import TrainState, load_state
from exportloss.runtime.sessions.devices import Device, captures_safely
from exportloss.runtime.sessions.graph_session import node_counts, open_graph
from exportloss.runtime.sessions.installation import import_onnxruntime
from tests.gpu.conftest import DEVICE

CASES = ["yolov5n", "yolov5s"]
LOSS, GRADIENT, PARAMETERS = 1e-5, 2e-4, 1e-6  # relative
HALF = {"float16": (1e-3, 0.25), "bfloat16": (1e-2, 0.5)}  # relative, of loss and movement
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


@pytest.fixture(
    params=[
        pytest.param(False, id="plain"),
        pytest.param(
            True,
            id="cuda-graph",
            marks=pytest.mark.xfail(
                reason="onnxruntime 1.31.1 cannot capture a whole step, see docs/cuda.md"
            ),
        ),
    ]
)
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


def test_ten_runs_give_the_same_bits(artifacts, ort_device, batches, expected):
    losses, states = [], []
    for _ in range(RUNS):
        session = TrainSession.open(artifacts / "yolov5n", device=ort_device)
        for batch in batches[:2]:
            losses.append(session.step(*batch, **expected["settings"]).loss)
        states.append(session.state())
    assert len(set(losses)) == 2
    for state in states:
        for name, tensor in states[0].model.items():
            np.testing.assert_array_equal(state.model[name], tensor, err_msg=name)


def test_evaluation_is_that_of_the_cpu(artifacts, ort_device, batches):
    one, other = (
        TrainSession.open(artifacts / "yolov5n", device=name).evaluate(*batches[0])
        for name in (ort_device, "cpu")
    )
    assert one.loss == pytest.approx(other.loss, rel=LOSS)
    np.testing.assert_allclose(one.predictions, other.predictions, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", HALF)
def test_half_precision_steps_as_float32_does(artifacts, ort_device, batches, expected, precision):
    """Each step from float32's state: loss, and how far and where the weights move."""
    if precision == "bfloat16" and ort_device == "cpu":
        pytest.skip("ONNX Runtime has no CPU kernels for it")
    full, half = (
        TrainSession.open(artifacts / name, device=ort_device)
        for name in ("yolov5n", f"yolov5n-{precision}")
    )
    loss_rtol, movement_rtol = HALF[precision]
    for number in range(20):
        start, batch = full.state(), batches[number % len(batches)]
        half.load_state(start)
        one, other = (s.step(*batch, **expected["settings"]) for s in (half, full))
        assert not one.skipped
        assert one.loss == pytest.approx(other.loss, rel=loss_rtol), number
        found, wanted = (
            np.concatenate([(s.state().model[n] - start.model[n]).ravel() for n in start.model])
            for s in (half, full)
        )
        assert np.linalg.norm(found - wanted) <= movement_rtol * np.linalg.norm(wanted), number


@pytest.mark.parametrize("provider", ["any", "gpu"])
def test_loss_alone(artifacts, ort_device, golden_case, provider):
    ort, device = import_onnxruntime(), Device.parse(ort_device)
    path = artifacts / f"golden-{provider}" / golden_case.name / "loss.onnx"
    if not path.is_file():
        pytest.skip(f"{path} was not made: --golden names other cases")
    session = open_graph(ort, path, device)
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
        if provider == "gpu":
            for _ in range(RUNS - 1):
                again = dict(zip(names, session.run(names, inputs), strict=True))
                for name in names:
                    np.testing.assert_array_equal(again[name], values[name], err_msg=name)


def test_a_captured_loss_follows_its_inputs(artifacts, ort_device, golden_case):
    """Numpy arrays go through the same buffers, other OrtValues are captured anew."""
    folder = artifacts / "golden-gpu" / golden_case.name
    if not folder.is_dir():
        pytest.skip(f"{folder} was not made: --golden names other cases")
    ort, memory = import_onnxruntime(), Device.parse(ort_device).memory
    session, plain = (
        LossSession.open(folder, device=ort_device, cuda_graph=graph) for graph in (None, False)
    )
    step = golden_case.steps[0]
    inputs = {f"predictions_{i}": level for i, level in enumerate(step.predictions)}
    for scale in (1.0, 0.5, -1.0):
        scaled = {name: (level * scale).astype(np.float32) for name, level in inputs.items()}
        values = {k: ort.OrtValue.ortvalue_from_numpy(v, *memory) for k, v in scaled.items()}
        for given in (scaled, values, scaled):
            found = session.compute(given, step.targets)
            wanted = plain.compute(scaled, step.targets)
            assert found.loss == wanted.loss
            for name, gradient in wanted.gradients.items():
                np.testing.assert_array_equal(found.gradients[name].numpy(), gradient.numpy())


def test_expected_values_are_of_these_artifacts(artifacts: Path):
    content = json.loads((artifacts / "expected.json").read_text())
    assert set(content["losses"]) == set(CASES)
