"""Detectors whose outputs are infinite, NaN or near the largest float32."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from exportloss.cli import main
from exportloss.cli.export.quantize import write_int8
from exportloss.errors import ArtifactError
from exportloss.runtime import TrainSession
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.evaluation.detection_files import write_json
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.evaluation.nms import check_predictions, non_max_suppression
from exportloss.runtime.training.epoch import evaluate_start
from tests.support.bright_detector import make_spots, spot_image
from tests.support.hostile.graphs import graph_of
from tests.support.messages import mentions

NAN, INF = float("nan"), float("inf")
GOOD = (32.0, 32.0, 8.0, 8.0, 0.9, 0.9, 0.1)
SIDE = 64


def write_constant_detector(path: Path, *rows: tuple[float, ...]) -> Path:
    """Write a detector of two classes that gives these rows for every image of 64 x 64."""
    node = onnx.helper.make_node
    nodes = [
        node("ReduceMean", ["images"], ["mean"], keepdims=0),
        node("Mul", ["mean", "zero"], ["nothing"]),
        node("Add", ["nothing", "rows"], ["output0"]),
    ]
    constants = {"zero": np.float32(0), "rows": np.array([rows], np.float32)}
    path.write_bytes(
        graph_of(nodes, constants, shape=(1, 3, SIDE, SIDE), output=(1, len(rows), len(GOOD)))
    )
    return path


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_spots(tmp_path / "spots")


BAD = {
    "all NaN": ([(NAN,) * 7] * 2, "14 of 14"),
    "one NaN": ([GOOD, (NAN, *GOOD[1:])], "1 of 14"),
    "infinite": ([GOOD, (*GOOD[:4], INF, -INF, 0.1)], "2 of 14"),
    "confidences of 1e38": ([GOOD, (*GOOD[:4], 1e38, 1e38, 0.1)], "1 of 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_how_many_are_not_finite_is_said(name):
    rows, counted = BAD[name]
    with pytest.raises(ArtifactError, match=mentions(counted, "not finite")):
        check_predictions(np.array([rows], np.float32))


@pytest.mark.parametrize(("command", "name"), [("detect", "all NaN"), ("val", "one NaN")])
def test_outputs_that_are_not_finite_are_an_error(data, tmp_path, capsys, command, name):
    rows, counted = BAD[name]
    weights = write_constant_detector(tmp_path / "best.onnx", *rows)
    source = ["--data", data] if command == "val" else ["--source", data.parent / "images/val"]
    arguments = [command, "--weights", weights, *source, "--save-json", "--threads", 1]
    assert main([*map(str, arguments)]) == 2
    error = capsys.readouterr().err
    assert counted in error
    assert "not finite" in error
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize("command", ["detect", "val"])
def test_boxes_near_the_largest_float_are_clipped_to_the_image(data, tmp_path, command):
    far = (0.0, 0.0, 3e38, 3e38, 0.9, 0.9, 0.1)
    beyond = (3.4e38, 0.0, 3.4e38, 3e38, 0.8, 0.9, 0.1)
    weights = write_constant_detector(tmp_path / "best.onnx", far, beyond)
    Image.fromarray(spot_image(SIDE, SIDE)).save(tmp_path / "dark.png")
    source = ["--data", data] if command == "val" else ["--source", tmp_path / "dark.png"]
    arguments = [command, "--weights", weights, *source, "--save-json", "--threads", 1]
    assert main([*map(str, arguments), "--save-txt"]) == 0
    (path,) = tmp_path.rglob(f"runs/{command}/exp/*.json")
    text = path.read_text()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    if command == "detect":
        boxes = [found["box"] for found in read[0]["detections"]]
        assert boxes[0] == [0, 0, SIDE, SIDE]
    else:
        boxes = [found["bbox"] for found in read]
        # Three images of 64 x 64 and three of 96 x 128, a box per class.
        assert boxes.count([0, 0, SIDE, SIDE]) == boxes.count([0, 0, 96, 128]) == 6
    assert all(0 <= value <= 128 for box in boxes for value in box)


def test_boxes_of_such_sides_suppress_each_other():
    same = (0.0, 0.0, 3e38, 3e38, 0.9, 0.9)
    (found,) = non_max_suppression(np.array([[same, same]], np.float32))
    assert found.shape == (1, 6)
    assert np.isfinite(found).all()


def test_finite_outputs_pass_whatever_their_size():
    check_predictions(np.array([[(3e38, -3e38, 3e38, 0, 1e19, 1)]], np.float32))
    check_predictions(np.zeros((0, 5, 7), np.float32))
    check_predictions(np.zeros((1, 0, 7), np.float32))


def test_a_detector_used_in_python_says_so_too(tmp_path):
    path = write_constant_detector(tmp_path / "best.onnx", (NAN,) * 7)
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    with pytest.raises(ArtifactError, match="7 of 7"):
        Detector.open(path, threads=1).detect([image])


def test_int8_is_refused_before_it_is_calibrated(data, tmp_path):
    data.write_text("path: .\ntrain: images/val\nval: images/val\nnames: [green, blue]\n")
    path = write_constant_detector(tmp_path / "best.onnx", (NAN,) * 7)
    with pytest.raises(ArtifactError, match="7 of 7"):
        write_int8(path, str(data))
    assert not (tmp_path / "best-int8.onnx").exists()


def test_the_start_of_a_training_is_refused(tiny_artifact, tiny_shapes, tmp_path):
    class Bad:
        """A session whose loss is finite and whose predictions are not."""

        def __init__(self, session):
            self.manifest, self._session = session.manifest, session

        def evaluate(self, *arguments, **options):
            found = self._session.evaluate(*arguments, **options)
            return dataclasses.replace(found, predictions=found.predictions * np.float32(NAN))

    session = TrainSession.open(tiny_artifact, threads=1)
    size = session.manifest.image_size
    batches = Batches(Dataset.open(read_data_yaml(tiny_shapes), "val"), 2, size)
    with pytest.raises(ArtifactError, match="not finite"):
        evaluate_start(Bad(session), batches, "refuse")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_no_file_holds_what_json_has_no_notation_for(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", [{"score": value}])
    assert not list(tmp_path.iterdir())
