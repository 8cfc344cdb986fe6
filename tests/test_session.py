"""`TrainSession` over ONNX Runtime training artifacts."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from exportloss import ArtifactError, ConfigError, DataError, TargetError, TooManyTargetsError
from exportloss.runtime import TrainSession

RATE = 1e-3


def make_batch(seed: int):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    rows = np.column_stack([np.arange(6) % 2, rng.integers(0, 4, 6), rng.uniform(0.2, 0.8, (6, 4))])
    return images, rows


@pytest.fixture
def session(ort_artifact) -> TrainSession:
    return TrainSession.open(ort_artifact, threads=1)


def assert_same_state(one, other):
    assert one.updates == other.updates
    np.testing.assert_array_equal(one.balance, other.balance)
    for name, tensor in one.model.items():
        np.testing.assert_array_equal(tensor, other.model[name], err_msg=name)
    for memory, tensors in one.optimizer.items():
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, other.optimizer[memory][name], err_msg=name)


def test_training_lowers_the_loss(session):
    images, rows = make_batch(0)
    losses = [session.step(images, rows, lr=RATE * 10).loss for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]


def test_uint8_and_float_images_are_the_same(session):
    images, rows = make_batch(0)
    one = session.evaluate(images, rows)
    other = session.evaluate(images.astype(np.float32) / 255, rows)
    assert one.loss == other.loss
    np.testing.assert_array_equal(one.predictions, other.predictions)


def test_evaluation_changes_nothing(session):
    before = session.state()
    session.evaluate(*make_batch(0))
    assert_same_state(before, session.state())


def test_gradients_accumulate(session):
    (images, rows), (other_images, other_rows) = make_batch(0), make_batch(1)
    state = session.state()
    session.step(images, rows, lr=0.0, update=False)
    first = {name: value.copy() for name, value in session.gradients().items()}
    session.load_state(state)
    session.step(other_images, other_rows, lr=0.0, update=False)
    second = {name: value.copy() for name, value in session.gradients().items()}
    session.load_state(state)
    session.step(images, rows, lr=0.0, update=False)
    # Running statistics moved, but training does not read them.
    session.step(other_images, other_rows, lr=0.0, update=False)
    for name, value in session.gradients().items():
        np.testing.assert_allclose(value, first[name] + second[name], rtol=1e-5, atol=1e-6)


def test_save_and_resume_is_bit_identical(ort_artifact, session, tmp_path):
    for seed in range(2):
        session.step(*make_batch(seed), lr=RATE)
    session.save(tmp_path / "state.safetensors")
    resumed = TrainSession.open(ort_artifact, threads=1).resume(tmp_path / "state.safetensors")
    for seed in range(2, 4):
        assert session.step(*make_batch(seed), lr=RATE) == resumed.step(*make_batch(seed), lr=RATE)
    assert_same_state(session.state(), resumed.state())
    assert session.state().updates == 4


@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_in_every_run(ort_artifact, threads):
    results = []
    for _ in range(2):
        session = TrainSession.open(ort_artifact, threads=threads)
        result = [session.step(*make_batch(seed), lr=RATE) for seed in range(2)]
        results.append((result, session.state()))
    (result, state), (other, other_state) = results
    assert result == other
    assert_same_state(state, other_state)


def test_thread_count_changes_rounding_only(ort_artifact):
    """Conv and ConvGrad split their matrix products by threads, so bits may differ there.

    They are the operators that do; the loss itself gives the same bits (see test_golden).
    """
    one, two = (TrainSession.open(ort_artifact, threads=n) for n in (1, 2))
    results = [session.step(*make_batch(0), lr=0.0, update=False) for session in (one, two)]
    np.testing.assert_allclose(results[0].loss, results[1].loss, rtol=1e-6)
    others = two.gradients()
    for name, gradient in one.gradients().items():
        error = np.linalg.norm(gradient - others[name])
        assert error <= 1e-4 * np.linalg.norm(gradient), name


def test_inference_model(session, tmp_path):
    images, rows = make_batch(0)
    session.step(images, rows, lr=RATE)
    session.export_inference(tmp_path / "model.onnx")
    inference = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [value.name for value in inference.get_inputs()] == ["images"]
    (output,) = inference.run(["output0"], {"images": images.astype(np.float32) / 255})
    expected = session.evaluate(images, rows).predictions
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    about = inference.get_modelmeta().custom_metadata_map
    assert about["stride"] == "32" and "circle" in about["names"]
    assert output.shape == (2, 3 * (64 + 16 + 4), 9)


def test_training_needs_neither_torch_nor_onnx(ort_artifact):
    """The device has neither; importing them would fail there."""
    program = (
        "import sys; sys.modules.update(torch=None, onnx=None)\n"
        "import numpy as np\n"
        "from exportloss.runtime import TrainSession\n"
        f"session = TrainSession.open({str(ort_artifact)!r})\n"
        "images = np.zeros((2, 3, 64, 64), np.uint8)\n"
        "print(session.step(images, [(0, 1, 0.5, 0.5, 0.5, 0.5)], lr=0.01).loss > 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": np.zeros((1, 3, 64, 64), np.uint8)}, DataError, "exported for"),
        ({"images": np.zeros((2, 64, 64, 3), np.uint8)}, DataError, "exported for"),
        ({"images": [[0]]}, DataError, "images have shape None"),
        ({"images": np.zeros((2, 3, 64, 64))}, DataError, "images are float64"),
        ({"targets": [(2, 0, 0.5, 0.5, 0.5, 0.5)]}, TargetError, "image is 2"),
        ({"targets": [(0, 4, 0.5, 0.5, 0.5, 0.5)]}, TargetError, "class is 4"),
        ({"targets": np.zeros((33, 6))}, TooManyTargetsError, "got 33.*has 32 slots"),
        ({"lr": float("nan")}, ConfigError, r"lr \(weights\) is nan"),
        ({"lr": (0.1, -1.0, 0.1)}, ConfigError, r"lr \(norms\) is -1"),
        ({"momentum": 1.0}, ConfigError, "momentum is 1.0; expected below 1"),
        ({"weight_decay": float("inf")}, ConfigError, "weight_decay is inf"),
        ({"max_norm": 0.0}, ConfigError, "max_norm is 0.0"),
    ],
)
def test_bad_step_is_refused_and_changes_nothing(session, change, error, message):
    images, rows = make_batch(0)
    arguments = {"images": images, "targets": rows, "lr": RATE} | change
    before = session.state()
    with pytest.raises(error, match=message):
        session.step(**arguments)
    assert_same_state(before, session.state())


def test_device_and_threads_are_checked(ort_artifact):
    with pytest.raises(ConfigError, match="device is 'tpu'"):
        TrainSession.open(ort_artifact, device="tpu")
    with pytest.raises(ConfigError, match="threads is 0"):
        TrainSession.open(ort_artifact, threads=0)


def test_damaged_state_is_refused(session, tmp_path):
    path = tmp_path / "state.safetensors"
    session.save(path)
    content = path.read_bytes()
    before = session.state()
    for damaged in (
        content[:-1],
        content[:100],
        b"",
        content[:-50] + bytes([content[-50] ^ 1]) + content[-49:],
        content + b"x",
    ):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"state\.safetensors"):
            session.resume(path)
    with pytest.raises(ArtifactError, match="nowhere"):
        session.resume(tmp_path / "nowhere")
    assert_same_state(before, session.state())


def test_state_of_another_model_is_refused(session, tmp_path):
    from exportloss.runtime.state import save_state

    state = session.state()
    short = dict(list(state.model.items())[1:])
    save_state(tmp_path / "short", dataclasses.replace(state, model=short))
    with pytest.raises(ArtifactError, match="lacks model tensor"):
        session.resume(tmp_path / "short")
    name = next(iter(state.model))
    other = state.model | {name: np.zeros(3, np.float32)}
    save_state(tmp_path / "other", dataclasses.replace(state, model=other))
    with pytest.raises(ArtifactError, match=rf"{name} has shape \(3,\), expected"):
        session.resume(tmp_path / "other")
    save_state(tmp_path / "adamw", dataclasses.replace(state, optimizer={}))
    with pytest.raises(ArtifactError, match="lacks momentum tensor"):
        session.resume(tmp_path / "adamw")
