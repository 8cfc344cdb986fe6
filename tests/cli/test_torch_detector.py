"""`val` and `detect` with files of weights, where torch is installed."""

from __future__ import annotations

import re

import numpy as np
import pytest

from exportloss.cli import main
from exportloss.cli.detection.detectors import open_detector
from exportloss.runtime.artifact.state import load_state
from tests.support.device_command import command
from tests.support.messages import error_of, missing


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The same detector as weights of both kinds and as ONNX."""
    folder = tmp_path_factory.mktemp("weights")
    sizes = ("--nc", "4", "--imgsz", "64", "--output", str(folder))
    formats = ("--format", "onnx,pt,safetensors")
    assert main(["export", "--weights", "yolov5n", *formats, *sizes]) == 0
    return folder


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_detect_what_their_onnx_file_does(exported, suffix):
    own = open_detector(str(exported / f"yolov5n.{suffix}")).detector
    file = open_detector(str(exported / "yolov5n.onnx")).detector
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), dtype=np.uint8)
    np.testing.assert_allclose(own.predict(images), file.predict(images), rtol=1e-3, atol=1e-3)
    assert (own.stride, own.image_size, own.batch_size) == (32, None, None)


def test_both_commands_take_them(exported, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights = ["--weights", str(exported / "yolov5n.pt"), "--imgsz", "64"]
    assert main(["val", *weights, "--data", str(shapes), "--noplots"]) == 0
    source = ["--source", str(shapes.parent / "images" / "val"), "--data", str(shapes)]
    assert main(["detect", *weights, *source, "--conf-thres", "0", "--max-det", "1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("image ")]
    assert len(lines) == 3
    for line in lines:
        assert re.search(r" 1 (circle|square|triangle|star), ", line), line


def test_a_run_can_be_judged_by_its_state(step_artifact, shapes, tmp_path):
    from exportloss.runtime import TrainSession

    session = TrainSession.open(step_artifact, threads=1)
    session.save(tmp_path / "state.safetensors")
    assert load_state(tmp_path / "state.safetensors").updates == 0
    own = open_detector(str(tmp_path / "state.safetensors")).detector
    assert own.names == session.manifest.names
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    expected = session.evaluate(images, []).predictions
    np.testing.assert_allclose(own.predict(images), expected, rtol=1e-3, atol=1e-3)


def test_without_torch_they_are_refused_in_words(exported, shapes, tmp_path):
    done = command("val", "--weights", exported / "yolov5n.pt", "--data", shapes, cwd=tmp_path)
    assert done.returncode == 2
    assert not missing(error_of(done.stderr), exported / "yolov5n.pt", "torch")
