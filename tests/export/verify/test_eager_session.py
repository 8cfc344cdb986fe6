"""The session in eager torch keeps to the interface of every other session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from exportloss.export.verify.eager_session import EagerTrainSession, torch_threads
from exportloss.runtime import TrainSession
from tests.support.tiny_detector import DecodingDetector

Batch = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def eager(tiny_ort_artifact: Path) -> EagerTrainSession:
    session = TrainSession.open(tiny_ort_artifact, threads=1)
    eager = EagerTrainSession(tiny_ort_artifact, session.manifest, model=DecodingDetector())
    eager.load_state(session.state())
    return eager


@pytest.fixture
def batch() -> Batch:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    return images, np.array([[0, 1, 0.5, 0.5, 0.4, 0.3], [1, 2, 0.3, 0.6, 0.2, 0.5]])


def test_a_loaded_state_is_the_state(eager: EagerTrainSession, batch: Batch) -> None:
    eager.step(*batch, lr=0.01)
    state = eager.state()
    first = eager.step(*batch, lr=0.01), eager.state()
    eager.load_state(state)
    second = eager.step(*batch, lr=0.01), eager.state()
    assert first[0] == second[0]
    for name, tensor in first[1].model.items():
        np.testing.assert_array_equal(tensor, second[1].model[name])
    assert first[1].updates == 2


def test_gradients_add_up_until_an_update(eager: EagerTrainSession, batch: Batch) -> None:
    name = "head.0.bias"
    eager.step(*batch, lr=0.0, update=False)
    once = eager.gradients()[name]
    eager.step(*batch, lr=0.0)
    np.testing.assert_allclose(eager.gradients()[name], 2 * once, rtol=1e-4)
    eager.step(*batch, lr=0.0)
    np.testing.assert_allclose(eager.gradients()[name], once, rtol=1e-4)
    assert eager.state().updates == 2


def test_evaluation_changes_nothing(eager: EagerTrainSession, batch: Batch) -> None:
    before = eager.state()
    assert eager.evaluate(*batch).items == eager.evaluate(*batch).items
    for name, tensor in eager.state().model.items():
        np.testing.assert_array_equal(tensor, before.model[name])


def test_it_evaluates_as_onnxruntime_does(
    eager: EagerTrainSession, batch: Batch, tiny_ort_artifact: Path
) -> None:
    expected = TrainSession.open(tiny_ort_artifact, threads=1).evaluate(*batch)
    got = eager.evaluate(*batch)
    assert got.loss == pytest.approx(expected.loss, rel=1e-5)
    np.testing.assert_allclose(got.predictions, expected.predictions, rtol=1e-4, atol=1e-4)


def test_the_exported_detector_predicts_the_same(
    eager: EagerTrainSession, batch: Batch, tmp_path: Path
) -> None:
    eager.export_inference(tmp_path / "detector.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "detector.onnx")
    images = batch[0].astype(np.float32) / np.float32(255)
    (output,) = session.run(["output0"], {"images": images})
    expected = eager.evaluate(*batch).predictions
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-4)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
