"""A step that is not finite changes nothing: the state after it is the one before, bit for bit."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from exportloss import ConfigError
from exportloss.export import export_train_step, export_training_artifacts
from exportloss.export.aten.to_onnx import to_onnx
from exportloss.export.detector.wrapper import prepare
from exportloss.export.step.functions import Step
from exportloss.runtime import StepResult, TrainSession, TrainState
from tests.support.graphs.on_gpu import assert_runs_on_gpus
from tests.support.graphs.portable_loss import open_session
from tests.support.tiny_detector import IMAGE, make_batch, make_detector, make_loss

Arrays = dict[str, npt.NDArray[np.generic]]

BAD = [np.nan, np.inf, -np.inf]
SETTINGS = ("learning_rates", "momentum", "weight_decay", "ema_decay")
# Every kind of state: two memories, an average, weights of the levels that change.
STATE = (
    "parameters statistics ema_parameters ema_statistics balance updates gradients "
    "optimizer_exp_avg optimizer_exp_avg_sq"
).split()


@pytest.fixture(scope="module")
def graph() -> onnxruntime.InferenceSession:
    detector = prepare(
        make_detector(),
        make_loss(autobalance=True),
        image_size=(IMAGE, IMAGE),
        batch_size=2,
        max_targets=8,
    )
    step = Step(detector, "adamw", ema=True)
    model = to_onnx(step.train, step.train_example(), modules=step.modules, name="train_step")
    assert_runs_on_gpus(model)
    return open_session(model)


@pytest.fixture(scope="module")
def start(graph: onnxruntime.InferenceSession) -> Arrays:
    """All inputs of a step, after two updates and with a gradient that waits."""
    rng = np.random.default_rng(0)
    shapes = {value.name: value.shape for value in graph.get_inputs()}
    feed = {name: np.zeros(shapes[name], np.float32) for name in STATE}
    feed["parameters"] = rng.normal(0, 0.1, shapes["parameters"]).astype(np.float32)
    feed["statistics"] = np.ones(shapes["statistics"], np.float32)
    feed |= {f"ema_{name}": feed[name] for name in ("parameters", "statistics")}
    feed["balance"] = np.asarray([4.0, 1.0], np.float32)
    settings = (np.full(3, 1e-3), 0.9, 0.05, 0.5)
    feed |= {name: np.asarray(v, np.float32) for name, v in zip(SETTINGS, settings, strict=True)}
    feed["max_norm"] = np.asarray(10, np.float32)
    for seed, update in enumerate((True, True, False)):
        images, targets = make_batch(seed)
        feed |= {"images": images.numpy(), "targets": targets.numpy(), "update": np.array(update)}
        results = run(graph, feed)
        assert not results["skipped"]
        feed |= state_of(results)
    return feed


def run(graph: onnxruntime.InferenceSession, feed: Arrays) -> Arrays:
    names = [output.name for output in graph.get_outputs()]
    return dict(zip(names, graph.run(names, feed), strict=True))


def state_of(results: Arrays) -> Arrays:
    return {name: results[f"new_{name}"] for name in STATE}


def assert_same_bits(one: TrainState, other: TrainState) -> None:
    def flat(state: TrainState) -> dict[str, bytes | int]:
        tensors = {**state.model, "balance": state.balance}
        for part, named in (*state.optimizer.items(), ("ema", state.ema)):
            tensors |= {f"{part}/{name}": tensor for name, tensor in named.items()}
        counts = {"updates": state.updates, "skipped": state.skipped}
        return counts | {name: tensor.tobytes() for name, tensor in tensors.items()}

    assert [name for name, value in flat(one).items() if flat(other)[name] != value] == []


def with_one(array: npt.NDArray[np.generic], value: float) -> npt.NDArray[np.generic]:
    """A copy in which one element, about the middle, has a value."""
    changed = array.copy()
    changed.reshape(-1)[array.size // 2] = value
    return changed


def bad_inputs(start: Arrays) -> Iterator[tuple[str, Arrays]]:
    rows = start["targets"]
    for value in BAD:
        for column in range(6):
            targets = rows.copy()
            targets[1, column] = value
            yield f"target column {column} {value}", {"targets": targets}
        padding = rows.copy()
        padding[-1, 3] = value
        yield f"padding {value}", {"targets": padding}
        for name in (*SETTINGS, "parameters", "gradients", "statistics"):
            yield f"{name} {value}", {name: with_one(start[name], value)}
    for value in (np.nan, -np.inf, 0.0):
        yield f"max_norm {value}", {"max_norm": np.asarray(value, np.float32)}
    yield "overflow", {"parameters": start["parameters"] * np.float32(1e30)}
    yield "norm", {"gradients": with_one(start["gradients"], 1e20)}


@pytest.mark.parametrize("update", [True, False])
def test_nothing_changes_in_the_graph(
    graph: onnxruntime.InferenceSession, start: Arrays, update: bool
) -> None:
    for what, change in bad_inputs(start):
        feed = start | change | {"update": np.array(update)}
        results = run(graph, feed)
        assert results["skipped"], what
        for name, tensor in state_of(results).items():
            assert tensor.tobytes() == feed[name].tobytes(), (what, name)


@pytest.mark.parametrize("update", [True, False])
def test_what_is_finite_is_not_skipped(
    graph: onnxruntime.InferenceSession, start: Arrays, update: bool
) -> None:
    for change in (
        {},
        {"max_norm": np.asarray(np.inf, np.float32)},
        {"gradients": with_one(start["gradients"], 1e18)},
        {"targets": np.zeros_like(start["targets"])},
    ):
        results = run(graph, start | change | {"update": np.array(update)})
        assert not results["skipped"]
        for name, tensor in state_of(results).items():
            assert np.isfinite(tensor).all(), name
        changed = {n for n, t in state_of(results).items() if (t != (start | change)[n]).any()}
        assert changed == (set(STATE) if update else {"statistics", "balance", "gradients"})


def test_training_goes_on_as_if_the_step_had_not_been(
    graph: onnxruntime.InferenceSession, start: Arrays
) -> None:
    rates = {"learning_rates": np.full(3, np.nan, np.float32)}
    skipped = run(graph, start | rates)
    expected, after = run(graph, start), run(graph, start | state_of(skipped))
    for name, tensor in expected.items():
        np.testing.assert_array_equal(after[name], tensor, err_msg=name)


@pytest.fixture(scope="module", params=["step", "ort"])
def artifact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    export = {"step": export_train_step, "ort": export_training_artifacts}[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "artifact"
    sizes = {"image_size": (IMAGE, IMAGE), "batch_size": 2, "max_targets": 8}
    export(make_detector(), make_loss(autobalance=True), folder, ema=True, **sizes)
    return folder


@pytest.fixture
def session(artifact: Path) -> TrainSession:
    return make_session(artifact)


def make_session(artifact: Path) -> TrainSession:
    """After two updates, and with a gradient that waits."""
    session = TrainSession.open(artifact, threads=1)
    for seed, update in enumerate((True, True, False)):
        step(session, seed, update=update)
    return session


def step(session: TrainSession, seed: int, **options: Any) -> StepResult:
    images, targets = (tensor.numpy() for tensor in make_batch(seed))
    return session.step(images, targets[targets[:, 4] > 0], **{"lr": 1e-3, **options})


def test_a_bad_weight_changes_nothing(session: TrainSession) -> None:
    start = session.state()
    changes = list(itertools.product(("stem.0.0.weight", "head.0.weight", "stem.0.1.bias"), BAD))
    # Finite all of it, but not the statistics that come of it.
    changes.append(("stem.0.0.weight", 1e30))
    for (name, value), update in itertools.product(changes, (True, False)):
        bad = {**start.model, name: with_one(start.model[name], value)}
        state = dataclasses.replace(start, model=bad)
        session._load_state(state)  # which no file can give
        assert step(session, 3, update=update).skipped, (name, value)
        assert session.skipped == update
        assert_same_bits(session.state(), dataclasses.replace(state, skipped=int(update)))


def test_a_bad_image_changes_nothing(session: TrainSession) -> None:
    if session.manifest.kind == "train-step":
        pytest.skip("takes uint8 images, which are finite")
    images, targets = (tensor.numpy() for tensor in make_batch(3))
    before = session.state()
    for value in BAD:
        shares = with_one(images.astype(np.float32) / 255, value)
        assert session.step(shares, targets, lr=1e-3, update=False).skipped
        assert_same_bits(session.state(), before)


@pytest.mark.parametrize("update", [True, False])
def test_training_goes_on_as_if_the_step_had_not_been_in_a_session(
    session: TrainSession, artifact: Path, update: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradients that waited before it wait on."""
    expected = step(session, 4)
    other = make_session(artifact)
    with monkeypatch.context() as patch:  # what no argument can bring about in both
        if other.manifest.kind == "train-step":
            patch.setattr(other, "_targets", lambda _: np.full((8, 6), np.nan, np.float32))
        else:
            patch.setattr(other, "_images", lambda _: np.full((2, 3, 64, 64), np.nan, np.float32))
        assert step(other, 3, update=update).skipped
    assert other.skipped == update
    assert step(other, 4) == expected
    assert_same_bits(other.state(), dataclasses.replace(session.state(), skipped=int(update)))


def test_bad_settings_are_refused_by_name(session: TrainSession) -> None:
    before = session.state()
    changes: list[dict[str, Any]] = [
        {name: value}
        for name in ("lr", "momentum", "weight_decay", "ema_decay", "max_norm")
        for value in BAD
        if (name, value) != ("max_norm", np.inf)
    ]
    for change in changes:
        (name,) = change
        with pytest.raises(ConfigError, match=name):
            step(session, 3, **change)
    assert_same_bits(session.state(), before)
