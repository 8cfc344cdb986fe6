"""States that a session must not take over, rates that lead nowhere, and threads that share one."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exportloss.errors import ArtifactError, ConfigError, TrainingError
from exportloss.runtime import TrainSession
from exportloss.runtime.artifact.state import TrainState, save_state
from exportloss.runtime.training.hyp import TrainingConfig
from tests.support.messages import mentions
from tests.support.old_folders import make_batch, unpack

KINDS = ("step", "ort")


@pytest.fixture(scope="module", params=KINDS)
def opened(request, tmp_path_factory) -> tuple[TrainSession, TrainState]:
    """A session that the tests of its kind share, and its state at the start."""
    folder = unpack("0.1", tmp_path_factory.mktemp("old"))
    session = TrainSession.open(folder / request.param, threads=1)
    return session, session.state()


@pytest.fixture
def session(opened) -> TrainSession:
    shared, start = opened
    shared.load_state(start)
    return shared


def assert_same(one: TrainState, two: TrainState) -> None:
    assert (one.updates, one.skipped) == (two.updates, two.skipped)
    for mine, theirs in (
        (one.model, two.model),
        (one.ema, two.ema),
        ({"balance": one.balance}, {"balance": two.balance}),
        *((one.optimizer[memory], two.optimizer[memory]) for memory in one.optimizer),
    ):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            np.testing.assert_array_equal(tensor, theirs[name])


def weight(state: TrainState) -> str:
    """The name of a tensor of several dimensions."""
    return next(name for name, tensor in state.model.items() if tensor.ndim == 4)


def with_weight(change: Callable[[np.ndarray], Any]) -> Callable[[TrainState], TrainState]:
    def changed(state: TrainState) -> TrainState:
        name = weight(state)
        model = {**state.model, name: change(state.model[name].copy())}
        return dataclasses.replace(state, model=model)

    return changed


def poked(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(tensor: np.ndarray) -> np.ndarray:
        tensor.flat[0] = value
        return tensor

    return change


def without_weight(state: TrainState) -> TrainState:
    model = {name: tensor for name, tensor in state.model.items() if name != weight(state)}
    return dataclasses.replace(state, model=model)


def with_negative_variance(state: TrainState) -> TrainState:
    name = next(name for name in state.model if name.endswith("running_var"))
    return dataclasses.replace(state, model={**state.model, name: -state.model[name]})


def with_memory(change: Callable[[np.ndarray], Any]) -> Callable[[TrainState], TrainState]:
    def changed(state: TrainState) -> TrainState:
        memory, tensors = next(iter(state.optimizer.items()))
        name = next(iter(tensors))
        tensors = {**tensors, name: change(tensors[name].copy())}
        return dataclasses.replace(state, optimizer={**state.optimizer, memory: tensors})

    return changed


CHANGES: dict[str, Callable[[TrainState], TrainState]] = {
    "smaller": with_weight(lambda tensor: tensor[:1, :1]),
    "larger": with_weight(lambda tensor: np.concatenate([tensor, tensor])),
    "flat": with_weight(np.ravel),
    "nan": with_weight(poked(math.nan)),
    "infinite": with_weight(poked(-math.inf)),
    "float64": with_weight(lambda tensor: tensor.astype(np.float64)),
    "integers": with_weight(lambda tensor: tensor.astype(np.int32)),
    "a list": with_weight(lambda tensor: tensor.tolist()),
    "missing": without_weight,
    "unknown": lambda s: dataclasses.replace(s, model={**s.model, "other": np.zeros(1, "f4")}),
    "negative variance": with_negative_variance,
    "memory of nan": with_memory(poked(math.nan)),
    "memory of another shape": with_memory(lambda tensor: tensor[:1]),
    "no memory": lambda s: dataclasses.replace(s, optimizer={}),
    "another memory": lambda s: dataclasses.replace(s, optimizer={**s.optimizer, "other": {}}),
    "balance of nan": lambda s: dataclasses.replace(s, balance=s.balance * np.float32("nan")),
    "longer balance": lambda s: dataclasses.replace(s, balance=np.ones(9, np.float32)),
    "scalar balance": lambda s: dataclasses.replace(s, balance=np.ones((), np.float32)),
    "negative updates": lambda s: dataclasses.replace(s, updates=-5),
    "negative skipped": lambda s: dataclasses.replace(s, skipped=-1),
    "many updates": lambda s: dataclasses.replace(s, updates=1 << 40),
}


# What the message has of each.
SAID: dict[str, str] = {
    **dict.fromkeys(("smaller", "larger", "flat", "memory of another shape"), "shape"),
    **dict.fromkeys(("longer balance", "scalar balance"), "balance"),
    **dict.fromkeys(("nan", "infinite", "memory of nan", "balance of nan"), "not finite"),
    **{"float64": "float64", "integers": "int32", "a list": "list"},
    **{"missing": "model", "unknown": "'other'", "another memory": "other"},
    **{"negative variance": "running_var"},
    **{"negative updates": "-5", "negative skipped": "-1", "many updates": str(1 << 40)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(session, tmp_path, name):
    images, rows = make_batch(0)
    session.step(images, rows, lr=0.01)
    before = session.state()
    wrong = CHANGES[name](before)
    said = next(iter(before.optimizer)) if name == "no memory" else SAID[name]
    with pytest.raises(ArtifactError, match=mentions("the state", said)):
        session.load_state(wrong)
    path = tmp_path / "wrong.safetensors"
    if all(isinstance(tensor, np.ndarray) for tensor in wrong.model.values()):
        save_state(path, wrong)
        if wrong.optimizer.keys() != before.optimizer.keys() and "other" in wrong.optimizer:
            return  # a memory without tensors is not written
        with pytest.raises(ArtifactError, match=mentions(path, said)):
            session.resume(path)
    assert_same(session.state(), before)
    session.load_state(before)
    assert_same(session.state(), before)


@pytest.mark.parametrize("kind", KINDS)
def test_an_artifact_of_weights_that_are_no_numbers_is_refused(tmp_path, monkeypatch, kind):
    """Hashes that are right do not make them so."""
    session = TrainSession.open(unpack("0.1", tmp_path) / kind, threads=1)
    wrong = with_weight(poked(math.nan))(session.state())
    name = {"step": "portable_step.take_state", "ort": "ort_training.OrtTrainSession.state"}[kind]
    monkeypatch.setattr(f"exportloss.runtime.sessions.{name}", lambda *_: wrong)
    with pytest.raises(ArtifactError, match=mentions(weight(wrong), "not finite")):
        TrainSession.open(session.folder, threads=1)


@pytest.mark.parametrize("rate", [1e38, 1e100, 1001.0, math.inf, math.nan, -1.0])
@pytest.mark.parametrize("group", [None, 0, 1, 2])
def test_rates_that_lead_nowhere_are_refused(session, rate, group):
    images, rows = make_batch(0)
    before = session.state()
    rates = [0.01] * 3
    if group is not None:
        rates[group] = rate
    with pytest.raises(ConfigError, match=mentions("lr", rate, "[0, 1000]")):
        session.step(images, rows, lr=rate if group is None else tuple(rates))
    with pytest.raises(ConfigError, match=mentions("weight_decay", rate, "[0, 1000]")):
        session.step(images, rows, lr=0.01, weight_decay=rate)
    assert_same(session.state(), before)


@pytest.mark.parametrize("name", ["lr0", "lrf", "warmup_bias_lr", "weight_decay"])
def test_rates_of_a_file_that_lead_nowhere_are_refused(name):
    assert getattr(TrainingConfig(**{name: 1000.0}), name) == 1000
    for value in (1e100, 1001.0, math.inf, -1.0):
        with pytest.raises(ConfigError, match=mentions(name, value)):
            TrainingConfig(**{name: value})


def test_a_rate_may_be_a_number_of_numpys(session):
    images, rows = make_batch(0)
    start = session.state()
    session.step(images, rows, lr=float(np.float32(0.1)))
    expected = session.state()
    for rate in (np.float32(0.1), np.full(3, 0.1, np.float32), np.array(np.float32(0.1))):
        session.load_state(start)
        session.step(images, rows, lr=rate)
        assert_same(session.state(), expected)


def test_weights_that_are_no_numbers_are_not_saved(session, tmp_path, monkeypatch):
    path = tmp_path / "last.safetensors"
    session.save(path)
    whole = path.read_bytes()
    wrong = with_weight(poked(math.inf))(session.state())
    monkeypatch.setattr(type(session), "state", lambda _: wrong)
    with pytest.raises(TrainingError, match=mentions(path, weight(wrong), "learning rate")):
        session.save(path)
    assert path.read_bytes() == whole


def test_threads_that_share_a_session_lose_no_step(session):
    """And each result is that of its own step."""
    images, rows = make_batch(0)
    threads, steps = 4, 6
    results: list[Any] = []

    def work() -> None:
        for _ in range(steps):
            results.append(session.step(images, rows, lr=1e-4))
            assert results[-1].loss > 0
            session.evaluate(images, rows)
            session.state()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert session.updates == threads * steps == len(results)
    losses = sorted(result.loss for result in results)
    assert len(set(losses)) == len(losses)


def test_the_same_steps_in_threads_give_the_same_state(tmp_path):
    folder: Path = unpack("0.1", tmp_path) / "step"
    images, rows = make_batch(0)
    one, two = (TrainSession.open(folder, threads=1) for _ in range(2))
    for _ in range(8):
        one.step(images, rows, lr=1e-3)
    workers = [
        threading.Thread(target=lambda: [two.step(images, rows, lr=1e-3) for _ in range(4)])
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert_same(one.state(), two.state())
