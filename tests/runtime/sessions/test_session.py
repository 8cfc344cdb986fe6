"""`TrainSession` over both kinds of artifact: ONNX Runtime's own, and the portable step."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from exportloss import ArtifactError, ConfigError, DataError, TargetError, TooManyTargetsError
from exportloss.export import export_train_step, export_training_artifacts
from exportloss.runtime import TrainSession
from tests.support import tiny_detector as tiny
from tests.support.messages import mentions

RATE = 1e-3


def make_batch(seed: int):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    rows = np.column_stack([np.arange(6) % 2, rng.integers(0, 4, 6), rng.uniform(0.2, 0.8, (6, 4))])
    return images, rows


@pytest.fixture(params=["ort", "step"])
def artifact(request) -> Path:
    folder: Path = request.getfixturevalue(f"{request.param}_artifact")
    return folder


@pytest.fixture
def session(artifact) -> TrainSession:
    return TrainSession.open(artifact, threads=1)


def step_gradient(session: TrainSession, batch) -> dict[str, np.ndarray]:
    """The gradient that a step uses: momentum, without memory and decay."""
    session.step(*batch, lr=0.0, momentum=0.0, weight_decay=0.0)
    return dict(session.state().optimizer["momentum"])


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


def test_uint8_and_float_images_are_the_same(ort_artifact):
    session = TrainSession.open(ort_artifact, threads=1)
    images, rows = make_batch(0)
    one = session.evaluate(images, rows)
    other = session.evaluate(images.astype(np.float32) / 255, rows)
    assert one.loss == other.loss
    np.testing.assert_array_equal(one.predictions, other.predictions)


def test_portable_step_takes_uint8_only(step_artifact):
    images, rows = make_batch(0)
    with pytest.raises(DataError, match=mentions("images", "float32", "uint8")):
        TrainSession.open(step_artifact).evaluate(images.astype(np.float32) / 255, rows)


def test_evaluation_changes_nothing(session):
    before = session.state()
    session.evaluate(*make_batch(0))
    assert_same_state(before, session.state())


def test_gradients_accumulate(session):
    start = session.state()
    first = step_gradient(session, make_batch(0))
    session.load_state(start)
    second = step_gradient(session, make_batch(1))
    session.load_state(start)
    session.step(*make_batch(0), lr=RATE, update=False)
    assert session.state().updates == 0
    # Running statistics moved, but training does not read them.
    for name, value in step_gradient(session, make_batch(1)).items():
        np.testing.assert_allclose(value, first[name] + second[name], rtol=1e-5, atol=1e-6)


def test_loading_a_state_drops_accumulated_gradients(session):
    start = session.state()
    session.step(*make_batch(0), lr=RATE, update=False)
    session.load_state(start)
    after = step_gradient(session, make_batch(1))
    session.load_state(start)
    for name, value in step_gradient(session, make_batch(1)).items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_both_kinds_train_the_same(ort_artifact, step_artifact):
    ort, portable = (TrainSession.open(f, threads=1) for f in (ort_artifact, step_artifact))
    assert_same_state(ort.state(), portable.state())
    for seed in range(3):
        losses = [session.step(*make_batch(seed), lr=RATE).loss for session in (ort, portable)]
        # Sums in another order: either is up to 2e-6 from the loss in float64.
        np.testing.assert_allclose(losses[0], losses[1], rtol=5e-6)
        expected, state = ort.state(), portable.state()
        assert state.updates == expected.updates
        for name, tensor in expected.model.items():
            # Biases begin at 0, so one that moved is its gradient.
            error = np.linalg.norm(state.model[name] - tensor)
            assert error <= 2e-4 * np.linalg.norm(tensor), name
        portable.load_state(expected)


def test_save_and_resume_is_bit_identical(artifact, session, tmp_path):
    for seed in range(2):
        session.step(*make_batch(seed), lr=RATE)
    session.save(tmp_path / "state.safetensors")
    resumed = TrainSession.open(artifact, threads=1).resume(tmp_path / "state.safetensors")
    for seed in range(2, 4):
        assert session.step(*make_batch(seed), lr=RATE) == resumed.step(*make_batch(seed), lr=RATE)
    assert_same_state(session.state(), resumed.state())
    assert session.state().updates == 4


@pytest.mark.parametrize("threads", [1, 2])
def test_same_bits_in_every_run(artifact, threads):
    results = []
    for _ in range(2):
        session = TrainSession.open(artifact, threads=threads)
        result = [session.step(*make_batch(seed), lr=RATE) for seed in range(2)]
        results.append((result, session.state()))
    (result, state), (other, other_state) = results
    assert result == other
    assert_same_state(state, other_state)


def test_thread_count_changes_rounding_only(artifact):
    """Conv and ConvGrad split their matrix products by threads, so bits may differ there.

    They are the operators that do in ONNX Runtime 1.19; the loss itself gives the same bits (see
    test_golden), and so does the whole portable step in newer ones (see device/test_training).
    """
    one, two = (TrainSession.open(artifact, threads=n) for n in (1, 2))
    others = step_gradient(two, make_batch(0))
    for name, gradient in step_gradient(one, make_batch(0)).items():
        error = np.linalg.norm(gradient - others[name])
        assert error <= 1e-4 * np.linalg.norm(gradient), name
    losses = [session.step(*make_batch(0), lr=RATE).loss for session in (one, two)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


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


def test_training_needs_neither_torch_nor_onnx(artifact):
    """The device has neither; importing them would fail there."""
    program = (
        "import sys; sys.modules.update(torch=None, onnx=None)\n"
        "import numpy as np\n"
        "from exportloss.runtime import TrainSession\n"
        f"session = TrainSession.open({str(artifact)!r})\n"
        "images = np.zeros((2, 3, 64, 64), np.uint8)\n"
        "print(session.step(images, [(0, 1, 0.5, 0.5, 0.5, 0.5)], lr=0.01).loss > 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "True\n", done.stderr


SHAPE = (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"images": np.zeros((1, 3, 64, 64), np.uint8)}, DataError, [(1, 3, 64, 64), SHAPE]),
        ({"images": np.zeros((2, 64, 64, 3), np.uint8)}, DataError, [(2, 64, 64, 3), SHAPE]),
        ({"images": [[0]]}, DataError, ["images", None, SHAPE]),
        ({"images": np.zeros((2, 3, 64, 64))}, DataError, ["images", "float64"]),
        ({"targets": [(2, 0, 0.5, 0.5, 0.5, 0.5)]}, TargetError, ["row 0", "image is 2"]),
        ({"targets": [(0, 4, 0.5, 0.5, 0.5, 0.5)]}, TargetError, ["row 0", "class is 4"]),
        ({"targets": np.zeros((33, 6))}, TooManyTargetsError, ["33", "32"]),
        ({"lr": float("nan")}, ConfigError, ["lr (weights)", "nan"]),
        ({"lr": (0.1, -1.0, 0.1)}, ConfigError, ["lr (norms)", "-1"]),
        ({"momentum": 1.0}, ConfigError, ["momentum", "1.0", "below 1"]),
        ({"weight_decay": float("inf")}, ConfigError, ["weight_decay", "inf"]),
        ({"max_norm": 0.0}, ConfigError, ["max_norm", "0.0"]),
    ],
)
def test_bad_step_is_refused_and_changes_nothing(session, change, error, said):
    images, rows = make_batch(0)
    arguments = {"images": images, "targets": rows, "lr": RATE} | change
    before = session.state()
    with pytest.raises(error, match=mentions(*said)):
        session.step(**arguments)
    assert_same_state(before, session.state())


def test_device_and_threads_are_checked(artifact):
    with pytest.raises(ConfigError, match=mentions("device", "'tpu'")):
        TrainSession.open(artifact, device="tpu")
    with pytest.raises(ConfigError, match=r"\bthreads\b.*\b0\b"):
        TrainSession.open(artifact, threads=0)


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
        with pytest.raises(ArtifactError, match=mentions(path)):
            session.resume(path)
    with pytest.raises(ArtifactError, match=mentions(tmp_path / "nowhere")):
        session.resume(tmp_path / "nowhere")
    assert_same_state(before, session.state())


def test_state_of_another_model_is_refused(session, tmp_path):
    from exportloss.runtime.artifact.state import save_state

    state = session.state()
    short = dict(list(state.model.items())[1:])
    save_state(tmp_path / "short", dataclasses.replace(state, model=short))
    with pytest.raises(ArtifactError, match=mentions("model", next(iter(state.model)))):
        session.resume(tmp_path / "short")
    name = next(iter(state.model))
    other = state.model | {name: np.zeros(3, np.float32)}
    save_state(tmp_path / "other", dataclasses.replace(state, model=other))
    with pytest.raises(ArtifactError, match=mentions(name, (3,), state.model[name].shape)):
        session.resume(tmp_path / "other")
    save_state(tmp_path / "adamw", dataclasses.replace(state, optimizer={}))
    with pytest.raises(ArtifactError, match=mentions("momentum", min(state.optimizer["momentum"]))):
        session.resume(tmp_path / "adamw")


@pytest.mark.parametrize("export", [export_train_step, export_training_artifacts])
def test_a_model_that_makes_no_boxes_is_evaluated_without(export, tmp_path):
    sizes = {"image_size": (tiny.IMAGE, tiny.IMAGE), "batch_size": 2, "max_targets": 8}
    export(tiny.make_detector(), tiny.make_loss(), tmp_path / "artifact", **sizes)
    session = TrainSession.open(tmp_path / "artifact", threads=1)
    images, targets = tiny.make_batch(0)
    evaluation = session.evaluate(images.numpy(), targets.numpy())
    assert evaluation.loss > 0
    assert evaluation.predictions.shape == (2, 0, 5 + tiny.CLASSES)
