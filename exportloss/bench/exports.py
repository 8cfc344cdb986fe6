"""Cost of an export: each format in a process of its own, into a temporary folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

from exportloss.bench.implementations.artifacts import EXPORTERS
from exportloss.bench.implementations.detector import configure_torch
from exportloss.bench.implementations.implementation import Prepared
from exportloss.bench.scenario import Scenario

__all__ = ["loss", "ort_training", "portable"]


def portable(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Export the portable step."""
    return _prepared("step", scenario)


def ort_training(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Export ONNX Runtime training artifacts."""
    return _prepared("ort", scenario)


def loss(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Export the loss alone, with its gradients."""
    return _prepared("loss", scenario)


def _prepared(kind: str, scenario: Scenario) -> Prepared:
    configure_torch(scenario)

    def step() -> None:
        with tempfile.TemporaryDirectory(prefix="exportloss-bench-") as folder:
            EXPORTERS[kind](scenario, Path(folder) / kind)

    return Prepared(step=step)
