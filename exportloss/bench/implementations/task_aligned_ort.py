"""The anchor-free loss with its gradients, in ONNX Runtime. Needs neither torch nor onnx."""

from __future__ import annotations

from pathlib import Path

from exportloss.bench.implementations.implementation import Prepared
from exportloss.bench.implementations.ort_loss import prepare_session
from exportloss.bench.implementations.task_aligned_inputs import make_anchor_free_maps
from exportloss.bench.scenario import Scenario

__all__ = ["portable"]


def portable(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Run the smallest graph that the targets fit, on inputs in the device's memory."""
    assert artifact is not None
    maps = make_anchor_free_maps(scenario)
    inputs = {f"predictions_{level}": values for level, values in enumerate(maps)}
    return prepare_session(artifact, scenario, lambda session: inputs)
