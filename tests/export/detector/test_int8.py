"""Detectors in 8 bits, beside those in float32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from exportloss.cli import main
from exportloss.runtime.evaluation.inference import Detector


def export(folder, *arguments):
    size = ("--weights", "yolov5n", "--imgsz", "64", "--output", str(folder))
    return main(["export", *size, "--format", "onnx", *map(str, arguments)])


def test_an_8_bit_file_finds_about_the_same_in_a_third_of_the_size(shapes, tmp_path, capsys):
    assert export(tmp_path, "--data", shapes, "--int8") == 0
    printed = capsys.readouterr().out
    whole, small = tmp_path / "yolov5n.onnx", tmp_path / "yolov5n-int8.onnx"
    assert small.stat().st_size < whole.stat().st_size / 3
    for title in ("float32", "int8"):
        assert title in printed
    detectors = [Detector.open(path, threads=1) for path in (whole, small)]
    assert detectors[0].names == detectors[1].names == ("circle", "square", "triangle", "star")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    exact, rounded = (detector.predict(images) for detector in detectors)
    assert exact.shape == rounded.shape
    assert np.abs(exact[..., 4:] - rounded[..., 4:]).max() < 0.05
    assert np.abs(exact[..., :4] - rounded[..., :4]).mean() < 1  # pixels

    model = onnx.load(small)
    inputs = {name for node in model.graph.node for name in node.input}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    made = {name: node.op_type for node in model.graph.node for name in node.output}
    in_float = [node for node in convolutions if made.get(node.input[1]) != "DequantizeLinear"]
    assert len(in_float) == 3  # the detection layer's
    assert "output0" not in inputs


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--nc", 4, "--int8"), "--data"),
        (("--data", "DATA", "--int8", "--nms"), "--nms"),
        (("--data", "DATA", "--int8", "--format", "pt"), "--format onnx"),
    ],
)
def test_what_8_bits_need_is_said_first(shapes, tmp_path, capsys, arguments, told):
    arguments = [shapes if word == "DATA" else word for word in arguments]
    assert export(tmp_path / "out", *arguments) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
