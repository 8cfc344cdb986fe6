"""The portable step on a plain onnxruntime: eager torch's training, without torch."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from exportloss import ArtifactError, DataError, TargetError, TooManyTargetsError
from exportloss.runtime import TrainSession, TrainState
from exportloss.runtime.artifact.state import load_state

CASES = ["sgd", "adamw", "frozen"]
STEPS = 5

# Relative; L2 over all tensors as one vector.
LOSS = 1e-6
BOUNDS = {
    "parameters": 1e-6,
    "statistics": 1e-6,
    "ema": 1e-6,
    "momentum": 2e-4,
    "exp_avg": 2e-4,
    "exp_avg_sq": 2e-4,
}
# AdamW's first update is lr * sign(gradient), also where the gradient is nothing but rounding.
FIRST_OF_ADAMW = {"parameters": 1e-4, "ema": 1e-4}


def vectors(state: TrainState) -> dict[str, np.ndarray]:
    """Each part of a state as one vector."""
    statistics = {name for name in state.model if ".running_" in name}
    parts = {
        "parameters": {n: t for n, t in state.model.items() if n not in statistics},
        "statistics": {n: state.model[n] for n in statistics},
        **state.optimizer,
        **({"ema": state.ema} if state.ema else {}),
    }
    return {
        part: np.concatenate([tensors[name].ravel() for name in sorted(tensors)])
        for part, tensors in parts.items()
    }


def assert_same_bits(one: TrainState, other: TrainState) -> None:
    assert one.updates == other.updates
    np.testing.assert_array_equal(one.balance, other.balance)
    others = vectors(other)
    for part, vector in vectors(one).items():
        np.testing.assert_array_equal(vector, others[part], err_msg=part)


@pytest.fixture
def session(device) -> TrainSession:
    return TrainSession.open(device / "sgd", threads=1)


@pytest.mark.parametrize(
    ("case", "reference"), [*((case, "eager") for case in CASES), ("sgd", "ort")]
)
def test_each_step_from_the_same_state(device, batches, expected, case, reference):
    """`ort` is ONNX Runtime's training artifact: both kinds train the same."""
    session = TrainSession.open(device / case, threads=1)
    states = device / f"{case}-expected"
    for step, (images, targets) in enumerate(batches):
        if step:
            session.resume(states / f"eager-{step - 1}.safetensors")
        loss = session.step(images, targets, **expected["settings"]).loss
        assert loss == pytest.approx(expected["losses"][case][reference][step], rel=LOSS), step
        state, want = session.state(), load_state(states / f"{reference}-{step}.safetensors")
        assert state.updates == want.updates == step + 1
        got = vectors(state)
        bounds = BOUNDS | (FIRST_OF_ADAMW if case == "adamw" and step == 0 else {})
        for part, vector in vectors(want).items():
            error = np.linalg.norm(got[part] - vector) / np.linalg.norm(vector)
            assert error <= bounds[part], (step, part)
    assert step == STEPS - 1


@pytest.mark.parametrize("case", CASES)
def test_same_bits_over_runs_and_threads(device, batches, expected, case):
    results = []
    for threads in (1, 2, 2):
        session = TrainSession.open(device / case, threads=threads)
        steps = [session.step(*batch, **expected["settings"]) for batch in batches[:3]]
        results.append((steps, session.evaluate(*batches[0]), session.state()))
    steps, evaluation, state = results[0]
    for other_steps, other_evaluation, other_state in results[1:]:
        assert other_steps == steps
        assert other_evaluation.items == evaluation.items
        np.testing.assert_array_equal(other_evaluation.predictions, evaluation.predictions)
        assert_same_bits(other_state, state)


def test_save_and_resume_is_bit_identical(device, session, batches, expected, tmp_path):
    for batch in batches[:2]:
        session.step(*batch, **expected["settings"])
    session.save(tmp_path / "state.safetensors")
    resumed = TrainSession.open(device / "sgd", threads=1).resume(tmp_path / "state.safetensors")
    for batch in batches[2:]:
        settings = expected["settings"]
        assert session.step(*batch, **settings) == resumed.step(*batch, **settings)
    assert_same_bits(session.state(), resumed.state())


def test_gradients_add_up_until_an_update(session, batches):
    """With empty memory and no decay, SGD's momentum after an update is the gradient."""
    start = session.state()
    plain = {"lr": 0.0, "momentum": 0.0, "weight_decay": 0.0}

    def gradient(*chosen: int) -> np.ndarray:
        session.load_state(start)
        for number in chosen[:-1]:
            session.step(*batches[number], **plain, update=False)
            assert session.state().updates == 0
        session.step(*batches[chosen[-1]], **plain)
        assert session.state().updates == 1
        return vectors(session.state())["momentum"]

    np.testing.assert_array_equal(gradient(0, 1), gradient(0) + gradient(1))


def test_frozen_layers_stay(device, batches):
    session = TrainSession.open(device / "frozen", threads=1)
    before = session.state().model
    session.step(*batches[0], lr=0.1)
    after = session.state().model
    frozen = {name for name in before if int(name.split(".")[1]) < 10}
    assert frozen
    for name, tensor in after.items():
        assert np.array_equal(tensor, before[name]) == (name in frozen), name


def test_inference_model_predicts_what_the_session_does(session, batches, expected, tmp_path):
    images, targets = batches[0]
    session.step(images, targets, **expected["settings"])
    session.export_inference(tmp_path / "model.onnx")
    inference = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [value.name for value in inference.get_inputs()] == ["images"]
    (output,) = inference.run(["output0"], {"images": images.astype(np.float32) / 255})
    predictions = session.evaluate(images, targets).predictions
    np.testing.assert_allclose(output, predictions, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((1, 3, 128, 128), np.uint8)}, DataError, "exported for"),
        ({"images": np.zeros((2, 3, 128, 128), np.float32)}, DataError, "takes uint8"),
        ({"targets": [(2, 0, 0.5, 0.5, 0.5, 0.5)]}, TargetError, "image is 2"),
        ({"targets": [(0, 3, 0.5, 0.5, 0.5, 0.5)]}, TargetError, "class is 3"),
        ({"targets": np.zeros((17, 6))}, TooManyTargetsError, r"got 17 .*\b16\b"),
    ],
)
def test_bad_batch_is_refused_and_changes_nothing(session, batches, change, error, message):
    images, targets = batches[0]
    before = session.state()
    with pytest.raises(error, match=message):
        session.step(**{"images": images, "targets": targets, "lr": 1e-3} | change)
    assert_same_bits(before, session.state())


def test_damaged_artifact_is_refused(device, tmp_path):
    folder = Path(shutil.copytree(device / "sgd", tmp_path / "copy"))
    content = bytearray((folder / "train_step.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "train_step.onnx").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"train_step\.onnx is damaged"):
        TrainSession.open(folder)
