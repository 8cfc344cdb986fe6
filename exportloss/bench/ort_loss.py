"""`loss.onnx` with its gradients, in ONNX Runtime. Needs neither torch nor onnx."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from exportloss.balance import initial_balance
from exportloss.bench.rivals import Prepared
from exportloss.bench.scenario import Scenario, make_maps, make_padded_targets
from exportloss.errors import ConfigError, InstallationError
from exportloss.runtime.installation import import_onnxruntime
from exportloss.runtime.manifest import Manifest

__all__ = ["portable"]


def portable(scenario: Scenario, artifact: Path | None) -> Prepared:
    """Run the graph with inputs and outputs bound to memory that stays."""
    assert artifact is not None
    manifest = Manifest.read(artifact)
    ort = import_onnxruntime()
    session = open_session(ort, artifact / "loss.onnx", scenario)
    maps = make_maps(scenario, manifest.strides, len(manifest.anchors[0]))
    expected = session.get_inputs()[0].shape
    if list(maps[0].shape) != expected:
        raise ConfigError(
            f"loss.onnx takes maps {tuple(expected)}, the layout {scenario.layout!r} has "
            f"{maps[0].shape}"
        )
    inputs = {
        **{f"predictions_{level}": x for level, x in enumerate(maps)},
        "targets": make_padded_targets(scenario),
        "balance": np.asarray(initial_balance(len(maps)), np.float32),
    }
    binding = session.io_binding()
    for name, array in inputs.items():
        value = ort.OrtValue.ortvalue_from_numpy(array, scenario.device, 0)
        binding.bind_ortvalue_input(name, value)
    outputs = {}
    for output in session.get_outputs():
        outputs[output.name] = ort.OrtValue.ortvalue_from_shape_and_type(
            output.shape, np.float32, scenario.device, 0
        )
        binding.bind_ortvalue_output(output.name, outputs[output.name])

    def step() -> float:
        session.run_with_iobinding(binding)
        return float(outputs["loss"].numpy())

    def check() -> tuple[float, float]:
        loss = step()
        gradients = (outputs[f"gradient_{level}"].numpy() for level in range(len(maps)))
        return loss, math.hypot(*(float(np.linalg.norm(g)) for g in gradients))

    return Prepared(step=step, check=check)


def open_session(ort: Any, path: Path, scenario: Scenario) -> Any:
    """Open a graph on the scenario's device, all of it.

    Raises:
        InstallationError: the installed onnxruntime cannot run it there.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = scenario.threads
    options.log_severity_level = 3  # errors
    if scenario.device == "cpu":
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    provider = "CUDAExecutionProvider"
    if provider not in ort.get_available_providers():
        raise InstallationError(
            f"the installed onnxruntime {ort.__version__} has no {provider}; install "
            "exportloss[gpu] (onnxruntime-gpu) in an environment of its own"
        )
    # No silent fall-back to the CPU, neither of single nodes nor of the whole session.
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(str(path), options, providers=[provider])
    session.disable_fallback()
    if provider not in session.get_providers():
        raise InstallationError(f"onnxruntime {ort.__version__} could not load its {provider}")
    return session
