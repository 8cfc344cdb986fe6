"""`loss.onnx` with its gradients, in ONNX Runtime. Needs neither torch nor onnx."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from exportloss.balance import initial_balance
from exportloss.bench.rivals import Prepared
from exportloss.bench.scenario import Scenario, make_head, make_maps, make_padded_targets
from exportloss.errors import ConfigError
from exportloss.runtime.devices import Device, open_session
from exportloss.runtime.installation import import_onnxruntime
from exportloss.runtime.manifest import Manifest

__all__ = ["BoundGraph", "portable"]


class BoundGraph:
    """A graph of float32 whose inputs and outputs stay in memory of the device.

    Args:
        path: of the graph.
        scenario: names the device, and the number of threads.
    """

    def __init__(self, path: Path, scenario: Scenario) -> None:
        self._ort = import_onnxruntime()
        self._device = Device.parse(scenario.device)
        self.session = open_session(self._ort, path, self._device, threads=scenario.threads)
        self._binding = self.session.io_binding()
        self._inputs: dict[str, Any] = {}  # a binding does not keep what it was given
        self.outputs: dict[str, Any] = {}

    def bind(self, inputs: Mapping[str, Any]) -> None:
        """Take the inputs, numpy arrays, and make room for every output."""
        for name, array in inputs.items():
            value = self._ort.OrtValue.ortvalue_from_numpy(array, *self._device.memory)
            self._binding.bind_ortvalue_input(name, value)
            self._inputs[name] = value
        for output in self.session.get_outputs():
            value = self._device.empty(self._ort, output.shape, np.float32)
            self._binding.bind_ortvalue_output(output.name, value)
            self.outputs[output.name] = value

    def run(self) -> float:
        """Compute; return the output `loss`."""
        self.session.run_with_iobinding(self._binding)
        return float(self.outputs["loss"].numpy())


def portable(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Run the graph with inputs and outputs bound to memory that stays."""
    assert artifact is not None
    manifest = Manifest.read(artifact)
    graph = BoundGraph(artifact / "loss.onnx", scenario)
    if manifest.loss_layout != scenario.layout:
        raise ConfigError(
            f"{artifact} starts from {manifest.loss_layout!r}, but {scenario.layout!r} is to be "
            "measured; name another folder"
        )
    graph.bind(_inputs(graph.session, manifest, scenario))

    def check() -> tuple[float, float]:
        loss = graph.run()
        gradients = [value.numpy() for name, value in graph.outputs.items() if "gradient" in name]
        return loss, math.hypot(*(float(np.linalg.norm(g)) for g in gradients))

    return Prepared(step=graph.run, check=check)


def _inputs(session: Any, manifest: Manifest, scenario: Scenario) -> dict[str, Any]:
    """Draw what the graph takes, by name."""
    levels, anchors = range(len(manifest.strides)), len(manifest.anchors[0])
    shapes = {value.name: value.shape for value in session.get_inputs()}
    from_head = scenario.layout == "head-input"
    channels = [shapes[f"features_{level}"][1] if from_head else 0 for level in levels]
    maps = make_maps(scenario, manifest.strides, anchors, channels)
    name = "features" if from_head else "predictions"
    inputs: dict[str, Any] = {f"{name}_{level}": maps[level] for level in levels}
    if from_head:
        for level, (weight, bias) in enumerate(make_head(scenario, anchors, channels)):
            inputs |= {f"weight_{level}": weight, f"bias_{level}": bias}
    return inputs | {
        "targets": make_padded_targets(scenario),
        "balance": np.asarray(initial_balance(len(maps)), np.float32),
    }
