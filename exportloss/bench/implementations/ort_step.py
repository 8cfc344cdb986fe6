"""A training step of either kind of artifact, in ONNX Runtime or OpenVINO: no torch, no onnx."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from exportloss.bench.implementations.implementation import Prepared
from exportloss.bench.scenario import (
    LEARNING_RATE,
    MAX_NORM,
    MOMENTUM,
    WEIGHT_DECAY,
    Scenario,
    make_images,
    make_targets,
)
from exportloss.errors import ConfigError
from exportloss.runtime.sessions.session import TrainSession

__all__ = ["captured", "openvino", "session"]


def session(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Open the artifacts; their state stays in ONNX Runtime's memory."""
    return _prepare(scenario, artifact, cuda_graph=None)


def captured(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Do the same with captured CUDA graphs."""
    return _prepare(scenario, artifact, cuda_graph=True)


def openvino(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Do the same in OpenVINO, on the CPU.

    Raises:
        ConfigError: The device is not the CPU.
    """
    if scenario.device != "cpu":
        raise ConfigError(f"OpenVINO is measured on the CPU, got --device {scenario.device}")
    return _prepare(dataclasses.replace(scenario, device="openvino"), artifact, cuda_graph=None)


def _prepare(scenario: Scenario, artifact: Path | None, *, cuda_graph: bool | None) -> Prepared:
    assert artifact is not None
    opened = TrainSession.open(
        artifact,
        device=scenario.device,
        self_check=False,  # the benchmark compares results; a second session would take memory
        threads=scenario.threads,
        tf32=scenario.precision == "tf32",
        cuda_graph=cuda_graph,
    )
    images, targets = make_images(scenario), make_targets(scenario)

    def step() -> float:
        return opened.step(
            images,
            targets,
            lr=LEARNING_RATE,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            max_norm=MAX_NORM,
        ).loss

    return Prepared(step=step, check=lambda: (step(), step()))
