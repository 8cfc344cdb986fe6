"""Detectors as plain ONNX models, with and without non-maximum suppression."""

from __future__ import annotations

import ast

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from exportloss.errors import ConfigError, ExportError
from exportloss.export import NmsSettings, export_inference
from exportloss.export.detector.nms import append_nms
from exportloss.models import YoloV5, yolov5
from exportloss.runtime.evaluation.nms import non_max_suppression
from tests.support.graphs.on_gpu import assert_runs_on_gpus
from tests.support.messages import mentions

NAMES = ("cat", "it's", 'a "dog"', "ünïcode 🐕")


def open_model(model: object) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])


def detector(name: str) -> YoloV5:
    """A detector with statistics other than those of a new one, which finds something."""
    torch.manual_seed(0)
    model = yolov5(name, len(NAMES))
    model.train()
    for _ in range(3):
        model(torch.rand(2, 3, 64, 64))
    with torch.no_grad():
        for conv in model.detect.m:
            conv.bias.copy_(2 * torch.randn_like(conv.bias))
    return model


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model = detector("yolov5n")
    path = tmp_path_factory.mktemp("onnx") / "best.onnx"
    export_inference(model, path, image_size=(64, 128), names=NAMES)
    return model, path


def test_the_boxes_are_torchs(exported):
    model, path = exported
    assert model.training  # as it was
    session = open_model(path)
    (given_input,), (output,) = session.get_inputs(), session.get_outputs()
    assert (given_input.name, given_input.shape) == ("images", ["batch", 3, 64, 128])
    assert (output.name, output.shape[0], output.shape[2]) == ("output0", "batch", 5 + len(NAMES))
    model.eval()
    for batch in (1, 2, 5):
        images = torch.rand(batch, 3, 64, 128)
        with torch.no_grad():
            expected = model.decode(model(images)).numpy()
        (got,) = session.run(None, {"images": images.numpy()})
        # Pixels reach hundreds, of which float32 keeps seven digits.
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-4)
    model.train()


def test_the_file_is_whole(exported):
    model, path = exported
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert {entry.domain for entry in proto.opset_import} == {""}
    tensors = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer}
    for name, parameter in model.named_parameters():
        np.testing.assert_array_equal(tensors[name], parameter.detach().numpy())


def test_no_node_leaves_a_gpu(exported):
    _, path = exported
    assert_runs_on_gpus(path, remarks=frozenset({"dynamic shapes"}))
    remarks = frozenset({"dynamic shapes", "shape or path that depends on data"})
    assert_runs_on_gpus(append_nms(onnx.load(path), NmsSettings()), remarks=remarks)


def test_yolov5_can_read_the_metadata(exported):
    model, path = exported
    metadata = open_model(path).get_modelmeta().custom_metadata_map
    assert ast.literal_eval(metadata["names"]) == dict(enumerate(NAMES))
    assert int(metadata["stride"]) == max(model.strides)


def test_bad_settings_are_refused(tmp_path):
    model = yolov5("yolov5n", 2)
    with pytest.raises(ConfigError, match=mentions("100 x 64", "multiples of 32")):
        export_inference(model, tmp_path / "a.onnx", image_size=(100, 64))
    with pytest.raises(ExportError, match=mentions("names", 1, 2)):
        export_inference(model, tmp_path / "a.onnx", image_size=(64, 64), names=["one"])
    assert list(tmp_path.iterdir()) == []
    for name, wrong in {"conf_thres": -0.1, "iou_thres": float("nan"), "max_det": 0}.items():
        with pytest.raises(ConfigError, match=mentions(name, wrong)):
            NmsSettings(**{name: wrong})


def test_a_detector_with_nms(exported):
    _, path = exported
    thresholds = NmsSettings(conf_thres=0.1, max_det=20)
    whole = append_nms(onnx.load(path), thresholds)
    onnx.checker.check_model(whole, full_check=True)
    assert [output.name for output in whole.graph.output] == ["detections"]
    images = np.random.default_rng(0).random((3, 3, 64, 128), np.float32)
    (predictions,) = open_model(path).run(None, {"images": images})
    (got,) = open_model(whole.SerializeToString()).run(None, {"images": images})
    expected = reference(predictions, thresholds)
    assert len(expected) == 3 * 20
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def reference(predictions: np.ndarray, thresholds: NmsSettings) -> np.ndarray:
    found = non_max_suppression(
        predictions,
        conf_thres=thresholds.conf_thres,
        iou_thres=thresholds.iou_thres,
        max_det=thresholds.max_det,
    )
    return np.concatenate(
        [np.insert(boxes, 0, image, axis=1) for image, boxes in enumerate(found)], dtype=np.float32
    )


def nms_alone(rows: int, classes: int, thresholds: NmsSettings) -> onnxruntime.InferenceSession:
    """The suppression behind a graph that does nothing."""
    shape = ["batch", rows, 5 + classes]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["output0"])],
        "nothing",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return open_model(append_nms(model, thresholds).SerializeToString())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 60), st.integers(1, 4)),
    conf_thres=st.sampled_from([0.0, 1e-5, 0.25, 0.6, 1.0]),
    iou_thres=st.sampled_from([0.0, 0.2, 0.45, 1.0]),
    max_det=st.sampled_from([1, 3, 300]),
    ties=st.booleans(),
)
def test_nms_keeps_what_the_runtime_keeps(seed, sizes, ties, **thresholds):
    batch, rows, classes = sizes
    random = np.random.default_rng(seed)
    predictions = random.random((batch, rows, 5 + classes), np.float32)
    predictions[..., :4] *= 40
    if ties:  # equal confidences, and boxes that are the same or without area
        predictions = np.round(predictions * 4) / 4
    chosen = NmsSettings(**thresholds)
    session = nms_alone(rows, classes, chosen)
    (got,) = session.run(["detections"], {"images": predictions})
    expected = reference(predictions, chosen)
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)
