"""tract, an engine that shares no code with ONNX Runtime, gives the same of every graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from exportloss.runtime import TrainSession
from exportloss.runtime.sessions.portable_step import PortableTrainSession
from tests.device.engines.steps import (
    CASES,
    assert_golden,
    bounds,
    golden_steps,
    graph_step,
    relative_l2,
)

tract = pytest.importorskip("tract", reason="tract is not installed", exc_type=ImportError)

Arrays = dict[str, np.ndarray]


class Graph:
    """A graph in tract; outputs go by their place, for it names them after the nodes."""

    def __init__(self, path: Path) -> None:
        model = tract.onnx().load(path)
        self._inputs = [model.input_name(index) for index in range(model.input_count())]
        self._run = model.into_model().into_runnable()
        graph = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in graph.get_outputs()]

    def run(self, inputs: Arrays) -> Arrays:
        values = self._run.run([np.array(inputs[name]) for name in self._inputs])
        found = [np.array(value.to_numpy()) for value in values]
        return dict(zip(self._outputs, found, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_steps_from_the_same_states(device, batches, expected, case):
    graph = Graph(device / case / "train_step.onnx")
    session = TrainSession.open(device / case, threads=1)
    assert isinstance(session, PortableTrainSession)
    for batch in batches:
        inputs, want = graph_step(session, batch, expected["settings"])
        got = graph.run(inputs)
        assert got.keys() == want.keys()
        for name, bound in bounds(case).items():
            kept = {"loss": name, "statistics": f"new_{name}", "parameters": f"new_{name}"}
            output = kept.get(name, f"new_optimizer_{name}")
            assert relative_l2([got[output]], [want[output]]) <= bound, output
        balance = ["new_balance"] if "new_balance" in want else []  # of YOLOv5's loss only
        for output in ("skipped", "new_updates", "new_gradients", *balance):
            np.testing.assert_array_equal(got[output], want[output], err_msg=output)


@pytest.mark.parametrize("name", ["eval_step", "inference"])
def test_evaluation_and_inference(device, batches, name):
    path = device / "adamw" / f"{name}.onnx"
    session = TrainSession.open(device / "adamw", threads=1)
    assert isinstance(session, PortableTrainSession)
    images, targets = batches[0]
    loop = session._loop
    state = {n: loop.read(n) for n in ("parameters", "statistics", "balance")}
    inputs: dict[str, Any] = {"images": images, "targets": targets, **state}
    if name == "inference":
        inputs = {"images": np.float32(images) / 255, **state}
    graph = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {value.name: inputs[value.name] for value in graph.get_inputs()}
    got = Graph(path).run(given)
    for (output, value), want in zip(got.items(), graph.run(None, given), strict=True):
        assert relative_l2([value], [want]) <= 1e-6, output


@pytest.mark.parametrize(("rows", "name"), [(0, "loss-4"), (4, "loss-4"), (12, "loss")])
def test_loss_alone(device, batches, rows, name):
    graph = Graph(device / "loss" / f"{name}.onnx")
    expected = load_file(device / "loss-expected.safetensors")
    inputs = {key: value for key, value in expected.items() if key.startswith("predictions_")}
    targets = np.zeros((4 if name == "loss-4" else 16, 6), np.float32)
    targets[:rows] = batches[0][1][:rows]
    got = graph.run(inputs | {"targets": targets, "balance": np.array([4, 1, 0.4], np.float32)})
    assert got["loss"] == pytest.approx(expected[f"{rows}/loss"].item(), rel=1e-6)
    for level in range(3):
        want = expected[f"{rows}/gradient_{level}"]
        assert relative_l2([got[f"gradient_{level}"]], [want]) <= 1e-6, level


def test_golden_values_of_the_form_for_gpus(device):
    for folder, name, expected in golden_steps(device):
        assert_golden(Graph(folder / "loss.onnx").run(expected), expected, name)
