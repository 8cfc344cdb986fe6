"""A session that was opened to evaluate only."""

from __future__ import annotations

import numpy as np
import pytest

from exportloss import ConfigError
from exportloss.runtime import Detector, TrainSession
from tests.support.messages import mentions


def make_batch(seed: int = 0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    return images, [[0, 1, 0.5, 0.5, 0.3, 0.3], [1, 2, 0.4, 0.6, 0.2, 0.5]]


@pytest.fixture
def pair(tiny_artifact) -> tuple[TrainSession, TrainSession]:
    trained = TrainSession.open(tiny_artifact, threads=1)
    trained.step(*make_batch(), lr=0.05)
    return trained, TrainSession.open(tiny_artifact, threads=1, evaluation_only=True)


@pytest.mark.parametrize("ema", [False, True])
def test_it_evaluates_and_exports_what_was_trained_elsewhere(pair, tmp_path, ema):
    trained, server = pair
    trained.save(tmp_path / "state.safetensors")
    server.resume(tmp_path / "state.safetensors")
    expected = trained.evaluate(*make_batch(), ema=ema)
    found = server.evaluate(*make_batch(), ema=ema)
    assert found.loss == expected.loss
    np.testing.assert_array_equal(found.predictions, expected.predictions)
    for name, session in (("one", trained), ("other", server)):
        session.export_inference(tmp_path / f"{name}.onnx", ema=ema)
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "other.onnx").read_bytes()
    assert Detector.open(tmp_path / "other.onnx")
    server.save(tmp_path / "again.safetensors")
    assert server.updates == trained.updates == 1


def test_it_takes_and_gives_weights(pair):
    trained, server = pair
    assert server.weights().sha256 != trained.weights().sha256
    server.set_weights(trained.weights())
    assert server.weights().sha256 == trained.weights().sha256
    assert server.evaluate(*make_batch()).loss == trained.evaluate(*make_batch()).loss


def test_what_trains_is_refused(pair):
    _, server = pair
    before = server.weights().sha256
    for name, call in {
        "step": lambda: server.step(*make_batch(), lr=0.1),
        "gradients": server.gradients,
        "add_gradients": lambda: server.add_gradients({}),
        "apply_gradients": lambda: server.apply_gradients(pair[0].gradients(), lr=0.1),
    }.items():
        with pytest.raises(ConfigError, match=mentions(f"{name} is", "evaluation_only")):
            call()
    assert server.weights().sha256 == before


def test_training_artifacts_are_refused_by_name(ort_artifact):
    with pytest.raises(ConfigError, match=mentions("ort-training", "evaluation_only", "'step'")):
        TrainSession.open(ort_artifact, evaluation_only=True)
