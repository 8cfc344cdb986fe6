"""Python repeats what the page trained, and opens what it gave to download.

`make web` runs the page first: see devices/web/tests/browser.ts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exportloss.cli import main as command
from exportloss.runtime import Detector, TrainSession
from exportloss.runtime.artifact.state import load_state
from tests.web.replay import make_batch, repeat

WEB = Path(__file__).parents[2] / "build" / "web"
IMAGES = WEB / "data" / "shapes" / "images"
RELATIVE = 1e-5


def record(name: str) -> dict[str, Any]:
    path = WEB / "browser" / name
    if not path.is_file():
        pytest.fail(f"{path} is missing; say `make web`", pytrace=False)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def distance(pairs: list[tuple[Any, Any]]) -> float:
    """Return the L2 norm of the differences."""
    return float(np.sqrt(sum(np.sum((np.float64(a) - b) ** 2) for a, b in pairs)))


@pytest.fixture
def session() -> TrainSession:
    return TrainSession.open(WEB / "data" / "detector", threads=1)


def test_losses_and_weights_are_those_of_python(session):
    run = record("run.json")
    start = session.state()
    losses = repeat(run, session, IMAGES)
    assert len(losses) == 20
    np.testing.assert_allclose([s["loss"] for s in run["steps"]], losses, rtol=RELATIVE)
    expected, found = session.state(), load_state(WEB / "browser" / "state.safetensors")
    assert (found.updates, found.skipped) == (20, 0)
    names = session.manifest.groups.all
    change = distance([(expected.model[name], start.model[name]) for name in names])
    assert distance([(found.model[name], expected.model[name]) for name in names]) < 1e-3 * change


def test_a_training_that_was_stopped_and_reloaded_is_the_same(session):
    run = record("further.json")
    session.start_from(WEB / "browser" / "state.safetensors")
    losses = repeat(run, session, IMAGES)
    np.testing.assert_allclose([s["loss"] for s in run["steps"]], losses, rtol=RELATIVE)
    expected, found = session.state(), load_state(WEB / "browser" / "further.safetensors")
    assert found.updates == expected.updates == 15
    momenta = [one.optimizer["momentum"] for one in (found, expected)]
    pairs = [(momenta[0][name], momenta[1][name]) for name in momenta[1]]
    assert distance(pairs) < 1e-2 * distance([(momentum, 0) for _, momentum in pairs])


def test_losses_on_webgpu_are_those_of_python():
    if not (WEB / "browser" / "gpu.json").is_file():
        pytest.skip("this Chromium offers no WebGPU")
    run = record("gpu.json")
    assert "WebGPU" in run["engine"]
    losses = repeat(run, TrainSession.open(WEB / "data" / "small-sgd", threads=1), IMAGES)
    np.testing.assert_allclose([s["loss"] for s in run["steps"]], losses, rtol=RELATIVE)


def test_python_continues_from_the_state(session, tmp_path):
    run = record("run.json")
    session.resume(WEB / "browser" / "state.safetensors")
    assert session.updates == 20
    session.save(tmp_path / "state.safetensors")
    written = (WEB / "browser" / "state.safetensors").read_bytes()
    assert (tmp_path / "state.safetensors").read_bytes() == written
    result = session.step(*make_batch(run, run["steps"][0], IMAGES), lr=1e-3)
    assert np.isfinite(result.loss) and not result.skipped


def test_the_detector_is_the_one_that_python_exports(session, tmp_path, capsys):
    session.resume(WEB / "browser" / "state.safetensors")
    session.export_inference(tmp_path / "detector.onnx")
    detector = WEB / "browser" / "detector.onnx"
    assert (tmp_path / "detector.onnx").read_bytes() == detector.read_bytes()
    assert Detector.open(detector).names == session.manifest.names
    images = WEB / "data" / "shapes" / "images" / "val"
    arguments = ["detect", "--weights", detector, "--source", images, "--project", tmp_path]
    assert command([str(each) for each in arguments]) == 0
    assert len(list((tmp_path / "exp").glob("*.png"))) == len(list(images.iterdir()))
    capsys.readouterr()
