"""The example of a training service, where Ray Serve is installed."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import urllib.error
import urllib.request
import warnings
from pathlib import Path

import numpy as np
import pytest

from exportloss.runtime import TrainSession

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own
    serve = pytest.importorskip("ray.serve", reason="ray[serve] is not installed")

EXAMPLE = Path(__file__).parents[2] / "examples" / "ray_service.py"
URL = "http://127.0.0.1:8000"


def post(path: str, **arrays: np.ndarray) -> dict[str, object]:
    file = io.BytesIO()
    np.savez(file, **arrays)
    with urllib.request.urlopen(f"{URL}{path}", data=file.getvalue(), timeout=120) as answer:
        told: dict[str, object] = json.load(answer)
        return told


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_service_trains_as_a_session_does(device, batches, tmp_path):
    import ray

    spec = importlib.util.spec_from_file_location("ray_service", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    state = tmp_path / "state.safetensors"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.run(example.TrainingService.bind(str(device / "sgd"), str(state)))
        losses = [post("/step", images=i, targets=t)["loss"] for i, t in batches[:2]]
        post("/save")
        with urllib.request.urlopen(f"{URL}/detector", timeout=120) as answer:
            detector = answer.read()
        with pytest.raises(urllib.error.HTTPError) as refused:
            post("/step", images=batches[0][0][:1], targets=batches[0][1])
        assert refused.value.code == 400 and "shape" in refused.value.read().decode()
    finally:
        serve.shutdown()
        ray.shutdown()
    session = TrainSession.open(device / "sgd")
    assert [session.step(*batch, lr=0.01).loss for batch in batches[:2]] == losses
    session.export_inference(tmp_path / "expected.onnx")
    assert detector == (tmp_path / "expected.onnx").read_bytes()
    again = TrainSession.open(device / "sgd").resume(state)
    assert again.updates == 2
