"""A large state has one buffer, which a step changes in place: to the same bits as two."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from exportloss import TrainingError
from exportloss.export import export_train_step
from exportloss.export.step import chunks as chunks_module
from exportloss.runtime import TrainSession
from exportloss.runtime.sessions import step_loop
from exportloss.runtime.sessions.state_buffers import OneBuffer, TwoBuffers
from tests.support.messages import mentions
from tests.support.tiny_detector import IMAGE, make_batch, make_detector, make_loss


@pytest.fixture(scope="module", params=["any", "cpu", "any, in parts", "cpu, in parts"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one-buffer") / "artifact"
    size = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}
    provider, _, parts = request.param.partition(", ")
    with pytest.MonkeyPatch.context() as patch:
        if parts:
            patch.setattr(chunks_module.chunks, "__defaults__", (1024,))
        export_train_step(
            make_detector(),
            make_loss(autobalance=True),
            folder,
            optimizer="adamw",
            ema=True,
            provider=provider,
            **size,
        )
    return folder


def vectors(session: TrainSession) -> dict[str, np.ndarray]:
    names = ("parameters", "statistics", "gradients", "ema_parameters", "ema_statistics", "balance")
    state = {name: session._loop.read(name) for name in (*names, "updates")}
    return state | {
        name: session._loop.read(f"optimizer_{name}") for name in ("exp_avg", "exp_avg_sq")
    }


def test_every_bit_is_that_of_two_buffers(artifact: Path, monkeypatch: pytest.MonkeyPatch):
    def trained() -> TrainSession:
        session = TrainSession.open(artifact, threads=1)
        for seed in range(4):
            images, targets = (tensor.numpy() for tensor in make_batch(seed))
            if seed == 2:
                session._loop.write(
                    "gradients", session._loop.read("gradients") * np.float32("nan")
                )
            result = session.step(images, targets, lr=0.01, update=seed != 1)
            assert result.skipped == (seed == 2)
            if seed == 2:
                session._loop.write("gradients", np.ones_like(session._loop.read("gradients")))
        session.step(images, targets, lr=0.01, update=False)
        assert session.apply_gradients(lr=0.01)
        return session

    two = trained()
    monkeypatch.setattr(step_loop, "LARGE", 0)
    one = trained()
    assert isinstance(one._loop._state, OneBuffer)
    assert isinstance(two._loop._state, TwoBuffers)
    for name, vector in vectors(one).items():
        np.testing.assert_array_equal(vector, vectors(two)[name], err_msg=name)


def test_a_state_that_is_half_new_is_not_used(artifact: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(step_loop, "LARGE", 0)
    session = TrainSession.open(artifact, threads=1)
    images, targets = (tensor.numpy() for tensor in make_batch(0))
    before = session.state()
    graph = session._loop._session
    failing = SimpleNamespace(run_with_iobinding=lambda *_: 1 / 0)
    monkeypatch.setattr(session._loop, "_session", failing)
    with pytest.raises(ZeroDivisionError):
        session.step(images, targets, lr=0.01)
    monkeypatch.setattr(session._loop, "_session", graph)
    for use in (session.state, lambda: session.step(images, targets, lr=0.01)):
        with pytest.raises(TrainingError, match=mentions("only a part", "load the state")):
            use()
    session.load_state(before)
    assert not session.step(images, targets, lr=0.01).skipped
