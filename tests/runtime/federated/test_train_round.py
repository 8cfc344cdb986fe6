"""A device's part of a round."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from exportloss import ConfigError, TooManyTargetsError, TrainingError
from exportloss.runtime import TrainSession
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.federated.train_round import train_round
from tests.support.messages import mentions

PLAIN = {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "max_norm": np.inf}


@pytest.fixture(scope="module")
def batches(tiny_shapes) -> list:
    data = Dataset.open(read_data_yaml(tiny_shapes), "train")
    return list(Batches(data, 2, (64, 64)).epoch(0))


@pytest.fixture
def session(tiny_artifact) -> TrainSession:
    return TrainSession.open(tiny_artifact, threads=1)


def test_a_round_is_its_steps(session, tiny_artifact, batches):
    found = train_round(session, batches, **PLAIN)
    other = TrainSession.open(tiny_artifact, threads=1)
    losses = [other.step(b.images, b.targets, **PLAIN).items for b in batches]
    assert session.weights().sha256 == other.weights().sha256
    assert (found.images, found.batches, found.skipped) == (8, 4, 0)
    assert found.items.box == pytest.approx(np.mean([one.box for one in losses]))


def test_accumulation_updates_after_that_many_batches_and_at_the_end(session, batches):
    train_round(session, batches[:3], accumulate=2, **PLAIN)
    assert session.updates == 2


def test_the_proximal_term_pulls_as_its_formula_says(session, batches):
    """Two updates of SGD without momentum: the second one's pull is by hand."""
    start = session.weights(share="parameters").parameters
    train_round(session, batches[:1], **PLAIN)
    first = session.weights(share="parameters").parameters
    train_round(session, batches[1:2], **PLAIN)
    plain = session.weights(share="parameters").parameters
    proximal = 5.0
    again = TrainSession.open(session.folder, threads=1)
    train_round(again, batches[:2], proximal=proximal, **PLAIN)
    pulled = again.weights(share="parameters").parameters
    # lr and gradients are float32, and Nesterov's momentum is 0.
    expected = plain - np.float32(0.01 * proximal) * (first - start)
    np.testing.assert_allclose(pulled, expected, rtol=1e-5, atol=1e-7)
    assert np.abs(pulled - start).sum() < np.abs(plain - start).sum()


def test_a_large_proximal_term_keeps_the_weights_near(session, batches, tiny_artifact):
    start = session.weights(share="parameters").parameters
    distances = []
    for proximal in (0.0, 1.0, 50.0):
        session = TrainSession.open(tiny_artifact, threads=1)
        train_round(session, batches * 3, proximal=proximal, **PLAIN)
        moved = session.weights(share="parameters").parameters
        distances.append(float(np.linalg.norm(moved - start)))
    assert distances == sorted(distances, reverse=True)
    assert distances[2] < 0.9 * distances[0]


def test_without_proximal_term_nothing_changes(session, batches, tiny_artifact):
    other = TrainSession.open(tiny_artifact, threads=1)
    train_round(session, batches, proximal=0.0, lr=0.01)
    train_round(other, batches, lr=0.01)
    assert session.weights().sha256 == other.weights().sha256


def with_bad_loss(session: TrainSession, monkeypatch, numbers: set[int]) -> None:
    """Skip some steps as the graph does, which then changes nothing."""
    step, count = session.step, iter(range(100))

    def stepping(images, targets, **options):
        if next(count) in numbers:
            huge = {**options, "lr": 1000.0, "weight_decay": 1000.0}
            assert options["update"]
            # A gradient whose square is infinite skips the step.
            name = session.manifest.groups.biases[0]
            shape = session.state().model[name].shape
            before = session.gradients()
            session.add_gradients({name: np.full(shape, 3e38, np.float32)})
            result = step(images, targets, **huge)
            session.load_state(session.state())
            session.add_gradients(before)
            return result
        return step(images, targets, **options)

    monkeypatch.setattr(session, "step", stepping)


def test_a_skipped_step_does_not_add_the_pull_twice(session, batches, tiny_artifact, monkeypatch):
    other = TrainSession.open(tiny_artifact, threads=1)
    train_round(other, [batches[0], batches[2]], proximal=5.0, **PLAIN)
    with_bad_loss(session, monkeypatch, {1})
    found = train_round(session, batches[:3], proximal=5.0, **PLAIN)
    assert (found.batches, found.skipped, found.images) == (3, 1, 4)
    np.testing.assert_array_equal(
        session.weights(share="parameters").parameters,
        other.weights(share="parameters").parameters,
    )


def test_a_round_of_skipped_steps_is_an_error_and_leaves_no_gradients(
    session, batches, monkeypatch
):
    before = session.weights().sha256
    with_bad_loss(session, monkeypatch, {0, 1, 2, 3})
    with pytest.raises(TrainingError, match=mentions("4", "skipped")):
        train_round(session, batches, proximal=1.0, **PLAIN)
    assert session.weights().sha256 == before


@pytest.mark.parametrize("options", [{"proximal": -1}, {"proximal": np.nan}, {"accumulate": 0}])
def test_bad_arguments_are_refused(session, batches, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        train_round(session, batches, lr=0.01, **options)


def test_no_batches_are_refused(session):
    with pytest.raises(ConfigError, match="none"):
        train_round(session, [], lr=0.01)


def test_boxes_beyond_the_graphs_are_dropped_only_if_that_is_wanted(session, batches):
    rows = np.tile(batches[0].targets[:1], (40, 1))
    full = dataclasses.replace(batches[0], targets=rows)
    with pytest.raises(TooManyTargetsError, match="40"):
        train_round(session, [full], lr=0.01, overflow="raise")
    train_round(session, [full], lr=0.01, overflow="keep-largest")
