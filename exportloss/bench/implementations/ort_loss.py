"""The loss alone with its gradients, in ONNX Runtime. Needs neither torch nor onnx."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from exportloss.bench.implementations.implementation import Prepared
from exportloss.bench.scenario import Scenario, make_head, make_maps, make_targets
from exportloss.errors import ConfigError
from exportloss.runtime.sessions.devices import Device
from exportloss.runtime.sessions.installation import import_onnxruntime
from exportloss.runtime.sessions.loss_session import LossSession

__all__ = ["portable", "prepare_session"]


def portable(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Run the smallest graph that the targets fit, on inputs in the device's memory."""
    assert artifact is not None

    def inputs(session: LossSession) -> dict[str, Any]:
        if session.manifest.loss_layout != scenario.layout:
            raise ConfigError(
                f"{artifact} starts from {session.manifest.loss_layout!r}, but "
                f"{scenario.layout!r} is to be measured; name another folder"
            )
        return _inputs(session, scenario)

    return prepare_session(artifact, scenario, inputs)


def prepare_session(
    artifact: Path, scenario: Scenario, make_inputs: Callable[[LossSession], Mapping[str, Any]]
) -> Prepared:
    """Open an artifact of a loss with gradients, and get ready to compute it.

    Args:
        artifact: Folder.
        scenario: Sizes, device and threads.
        make_inputs: Function that draws the inputs of the loss, arrays by name.
    """
    session = LossSession.open(
        artifact, device=scenario.device, threads=scenario.threads, self_check=False
    )
    inputs, targets = _on_device(make_inputs(session), scenario), make_targets(scenario)

    def check() -> tuple[float, float]:
        result = session.compute(inputs, targets)
        gradients = [value.numpy() for value in result.gradients.values()]
        return result.loss, math.hypot(*(float(np.linalg.norm(g)) for g in gradients))

    return Prepared(step=lambda: session.compute(inputs, targets), check=check)


def _inputs(session: LossSession, scenario: Scenario) -> dict[str, Any]:
    """Draw the inputs of the loss, by name."""
    shapes, strides = session.input_shapes, session.manifest.strides
    levels, anchors = range(len(strides)), len(session.manifest.anchors[0])
    from_head = scenario.layout == "head-input"
    channels = [shapes[f"features_{level}"][1] if from_head else 0 for level in levels]
    maps = make_maps(scenario, strides, anchors, channels)
    name = "features" if from_head else "predictions"
    inputs: dict[str, Any] = {f"{name}_{level}": maps[level] for level in levels}
    if from_head:
        for level, (weight, bias) in enumerate(make_head(scenario, anchors, channels)):
            inputs |= {f"weight_{level}": weight, f"bias_{level}": bias}
    return inputs


def _on_device(inputs: Mapping[str, Any], scenario: Scenario) -> dict[str, Any]:
    """Copy arrays to the device's memory."""
    values, memory = import_onnxruntime().OrtValue, Device.parse(scenario.device).memory
    return {name: values.ortvalue_from_numpy(array, *memory) for name, array in inputs.items()}
