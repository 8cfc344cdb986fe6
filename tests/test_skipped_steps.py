"""A step that is not finite changes nothing: the state after it is the one before, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from exportloss.export.aten_to_onnx import to_onnx
from exportloss.export.detector_graph import prepare
from exportloss.export.step_functions import Step
from tests.gpu_graphs import assert_runs_on_gpus
from tests.portable_loss import open_session
from tests.tiny_detector import IMAGE, make_batch, make_detector, make_loss

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
