"""What sessions do with weights of other devices does not depend on the loss."""

from __future__ import annotations

import numpy as np
import pytest

from exportloss import ArtifactError
from exportloss.runtime import TrainSession, average
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.federated.train_round import train_round
from tests.support.messages import mentions


@pytest.fixture(scope="module")
def batches(tiny_shapes) -> list:
    return list(Batches(Dataset.open(read_data_yaml(tiny_shapes), "train"), 2, (64, 64)).epoch(0))


def test_a_round_an_average_and_a_calibration_reach_the_server(anchor_free_artifact, batches):
    device, server = (
        TrainSession.open(anchor_free_artifact, threads=1, evaluation_only=only)
        for only in (False, True)
    )
    start = device.weights()
    assert server.weights().sha256 == start.sha256
    done = train_round(device, batches, lr=0.01, proximal=0.1)
    assert tuple(done.items) == ("box", "cls", "dfl")
    assert device.calibrate(batches) == len(batches)
    trained = device.weights()
    assert trained.sha256 != start.sha256
    mean = average([start, trained], [1, 3])
    np.testing.assert_allclose(
        mean.parameters, (start.parameters + 3 * trained.parameters) / 4, rtol=1e-6, atol=1e-7
    )
    results = []
    for session in (device, server):
        session.set_weights(mean)
        results.append(session.evaluate(batches[0].images, batches[0].targets, ema=True))
    assert results[0].loss == pytest.approx(results[1].loss, rel=1e-5)
    assert tuple(results[1].items) == ("box", "cls", "dfl")
    assert results[1].loss == pytest.approx(2 * results[1].items.total, rel=1e-5)


def test_gradients_apart_are_a_step(anchor_free_artifact, batches):
    one, other = (TrainSession.open(anchor_free_artifact, threads=1) for _ in range(2))
    one.step(batches[0].images, batches[0].targets, lr=0.01)
    other.step(batches[0].images, batches[0].targets, lr=0.0, update=False)
    assert other.apply_gradients(other.gradients(), lr=0.01)
    assert one.weights().sha256 == other.weights().sha256


def test_what_is_no_gradient_is_not_added(anchor_free_artifact):
    session = TrainSession.open(anchor_free_artifact, threads=1)
    name = next(iter(session.gradients()))
    for wrong in ("0.1", None, [0.5]):
        with pytest.raises(ArtifactError, match=mentions(name, type(wrong).__name__)):
            session.add_gradients({name: wrong})
    assert not any(gradient.any() for gradient in session.gradients().values())


def test_weights_of_another_detector_are_refused(tiny_artifact, anchor_free_artifact):
    weights = TrainSession.open(tiny_artifact, threads=1, evaluation_only=True).weights()
    session = TrainSession.open(anchor_free_artifact, threads=1, evaluation_only=True)
    before = session.weights().sha256
    with pytest.raises(ArtifactError, match=mentions("another model")):
        session.set_weights(weights)
    with pytest.raises(ArtifactError, match=mentions("model 1", "another layout")):
        average([session.weights(), weights], [1, 1])
    for wrong in (None, weights.tensors):
        with pytest.raises(ArtifactError, match=mentions(type(wrong).__name__)):
            session.set_weights(wrong)
    assert session.weights().sha256 == before
