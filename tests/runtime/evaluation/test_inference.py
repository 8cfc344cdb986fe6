import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from exportloss.errors import ArtifactError, ConfigError
from exportloss.runtime import TrainSession
from exportloss.runtime.evaluation.inference import Detector
from tests.support.bright_detector import spot_image, write_bright_detector
from tests.support.messages import mentions

# On a canvas of 64 x 96 the first is scaled by 1/2 and padded above and below, the second is not.
WIDE = spot_image(96, 192, (0, 32, 16, 48, 32), (1, 160, 64, 176, 80))
PLAIN = spot_image(64, 96, (1, 8, 40, 16, 48))
FOUND = [[[32, 16, 48, 32, 0], [160, 64, 176, 80, 1]], [[8, 40, 16, 48, 1]]]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "best.onnx"


def assert_found(detector, **options):
    for images, expected in (([WIDE, PLAIN], FOUND), ([PLAIN], FOUND[1:]), ([], [])):
        found = detector.detect(images, **options)
        assert len(found) == len(expected)
        for boxes, rows in zip(found, expected, strict=True):
            ordered = boxes[np.argsort(boxes[:, 5])][:, [0, 1, 2, 3, 5]]
            np.testing.assert_allclose(ordered, rows, atol=0.02)
            assert (boxes[:, 4] > 0.7).all()  # scaling blurs the borders


@pytest.mark.parametrize("batch", [1, 2, 3, "batch"])
@pytest.mark.parametrize("sides", [(64, 96), ("height", "width")])
def test_boxes_are_in_pixels_of_images_of_any_size(path, batch, sides):
    detector = Detector.open(write_bright_detector(path, shape=(batch, 3, *sides)), threads=1)
    assert detector.batch_size == (None if batch == "batch" else batch)
    assert detector.image_size == (None if "width" in sides else (64, 96))
    assert_found(detector, size=(64, 96))


def test_half_precision(path):
    write_bright_detector(path, shape=(1, 3, 64, 96), element_type=TensorProto.FLOAT16)
    assert_found(Detector.open(path, threads=1))


def test_options_of_suppression(path):
    detector = Detector.open(write_bright_detector(path), threads=1)
    options = {"size": (64, 96)}
    assert [len(b) for b in detector.detect([WIDE, PLAIN], classes=[1], **options)] == [1, 1]
    assert [len(b) for b in detector.detect([WIDE, PLAIN], max_det=1, **options)] == [1, 1]
    assert [len(b) for b in detector.detect([WIDE, PLAIN], conf_thres=0.95, **options)] == [0, 0]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({0: "cat", 1: "dog"}, ("cat", "dog")),
        (["cat", "dog"], ("cat", "dog")),
        ({0: "it's", 1: 'a "b"'}, ("it's", 'a "b"')),
        ({0: "\x1b[2J", 1: "b"}, (r"\x1b[2J", "b")),
        (None, ()),
        ({0: "cat", 2: "dog"}, ()),
        ("cat", ()),
        ("__import__('os').abort()", ()),
        ("(" * 5000, ()),
        ("{0: 'cat'", ()),
        ("{[]: 1}", ()),
    ],
)
def test_names_are_read_and_never_run(path, names, expected):
    detector = Detector.open(write_bright_detector(path, names=names), threads=1)
    assert detector.names == expected


@pytest.mark.parametrize(
    ("text", "stride"), [("64", 64), ("32.0", 32), ("tensor(64)", 32), ("0", 32), ("-8", 32)]
)
def test_stride(path, text, stride):
    assert Detector.open(write_bright_detector(path, stride=text), threads=1).stride == stride


def test_size_and_batch_are_the_files_or_fit_the_stride(path, tmp_path):
    fixed = Detector.open(write_bright_detector(path, shape=(2, 3, 64, 96)), threads=1)
    assert fixed.check_size(None) == fixed.check_size((64, 96)) == (64, 96)
    assert fixed.check_batch(None, default=8) == fixed.check_batch(2, default=8) == 2
    with pytest.raises(ConfigError, match=mentions((96, 96), (64, 96))):
        fixed.check_size((96, 96))
    with pytest.raises(ConfigError, match=r"\b3\b.*\b2\b"):
        fixed.check_batch(3, default=8)
    free = Detector.open(write_bright_detector(tmp_path / "free.onnx", stride="64"), threads=1)
    assert free.check_size(None) == (640, 640)
    assert (free.check_batch(None, default=8), free.check_batch(3, default=8)) == (8, 3)
    with pytest.raises(ConfigError, match=mentions((100, 64), (128, 64))):
        free.check_size((100, 64))
    with pytest.raises(ConfigError, match=r"\b0\b.*\b1\b"):
        free.check_batch(0, default=8)


@pytest.mark.parametrize("artifact", ["step_artifact", "ort_artifact"])
def test_a_session_detects_what_its_inference_file_does(artifact, tmp_path, request):
    session = TrainSession.open(request.getfixturevalue(artifact), threads=1)
    session.export_inference(tmp_path / "model.onnx")
    file = Detector.open(tmp_path / "model.onnx", threads=1)
    assert {value.name for value in onnx.load(tmp_path / "model.onnx").graph.input} == {"images"}
    own = Detector.from_session(session)
    assert own.names == session.manifest.names
    assert (own.batch_size, own.image_size, own.stride) == (2, (64, 64), 32)
    assert (file.batch_size, file.image_size) == (None, (64, 64))
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 64, 64), dtype=np.uint8)
    rows = own.predict(images[:2])
    for count in (1, 2, 5):
        found = file.predict(images[:count])[:2]
        np.testing.assert_allclose(found, rows[:count], rtol=1e-4, atol=1e-4)


def write_other(path, outputs, inputs=((1, 3, 8, 8),), element_type=TensorProto.FLOAT):
    """A file whose first output is its first input, in another shape."""
    values = [
        helper.make_tensor_value_info(f"in{index}", element_type, shape)
        for index, shape in enumerate(inputs)
    ]
    output = helper.make_tensor_value_info("out", element_type, outputs)
    shape = helper.make_tensor("shape", TensorProto.INT64, [len(outputs)], outputs)
    node = helper.make_node("Reshape", ["in0", "shape"], ["out"])
    graph = helper.make_graph([node], "other", values, [output], [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ({"outputs": (192, 1)}, ["out", [192, 1], "(B, N, 5 + classes)"]),
        ({"outputs": (1, 64, 3)}, ["out", [1, 64, 3]]),
        ({"outputs": (1, 24, 8), "inputs": ((1, 192),)}, [[1, 192]]),
        ({"outputs": (1, 24, 8), "inputs": ((1, 3, 8, 8), (1,))}, ["in1"]),
        (
            {"outputs": (1, 24, 8), "element_type": TensorProto.UINT8},
            ["uint8", "float32", "float16"],
        ),
    ],
)
def test_other_graphs_are_refused(path, file, said):
    write_other(path, **file)
    with pytest.raises(ArtifactError, match=mentions(path, *said)):
        Detector.open(path, threads=1)


def write_shapes(path, outputs, image=(1, 3, 64, 64), **metadata):
    """A file that gives zeros of these shapes, whatever it sees."""
    nodes, values, constants = [], [], []
    for index, shape in enumerate(outputs):
        constants.append(helper.make_tensor(f"s{index}", TensorProto.INT64, [len(shape)], shape))
        nodes.append(helper.make_node("ConstantOfShape", [f"s{index}"], [f"o{index}"]))
        values.append(helper.make_tensor_value_info(f"o{index}", TensorProto.FLOAT, shape))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, image)
    graph = helper.make_graph(nodes, "other", [images], values, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


CELLS = 8 * 8 + 4 * 4 + 2 * 2  # of 64 x 64 pixels


@pytest.mark.parametrize(
    ("outputs", "metadata", "told"),
    [
        ([(1, 8, CELLS)], {"names": "['a', 'b', 'c', 'd']"}, "anchor-free"),
        ([(1, 84, CELLS)], {}, "anchor-free"),
        ([(1, 3 * CELLS, 5 + 4 + 32), (1, 32, 16, 16)], {"names": str(list("abcd"))}, "segment"),
        ([(1, 3 * CELLS, 117), (1, 32, 160, 160)], {}, "segment"),
        ([(1, 300, 6)], {"names": str(list("abcd"))}, "end-to-end"),
        ([(1, 300, 6)], {"names": "['a']", "end2end": "True"}, "end-to-end"),
        ([(1, 300, 6)], {"names": "['a']"}, "end-to-end"),  # one class: as many columns as YOLOv5
        ([(1, 56, CELLS)], {"names": "['person']", "task": "pose"}, "pose"),
        ([(1, 3 * CELLS, 12)], {"names": str(list("abcd"))}, r"\b7\b.*\b4\b"),
    ],
)
def test_other_detectors_are_refused_by_name(path, outputs, metadata, told):
    write_shapes(path, outputs, **metadata)
    with pytest.raises(ArtifactError, match=told):
        Detector.open(path, threads=1)


@pytest.mark.parametrize(
    ("outputs", "metadata"),
    [
        ([(1, 3 * CELLS, 9)], {"names": str(list("abcd"))}),
        ([(1, 3 * CELLS, 85)], {}),
        ([(1, 3 * CELLS, 6)], {"names": "['a']"}),
        ([(1, 3 * CELLS, 5 + 79)], {"names": str(list(range(79)))}),  # as many columns as cells
        # YOLOv5's export.py gives the maps as well with some options.
        ([(1, 3 * CELLS, 9), (1, 3, 8, 8, 9)], {"names": str(list("abcd")), "task": "detect"}),
    ],
)
def test_a_yolov5_detector_is_not_taken_for_another(path, outputs, metadata):
    assert Detector.open(write_shapes(path, outputs, **metadata), threads=1).stride == 32


def test_what_is_no_file_is_refused(path):
    with pytest.raises(ArtifactError, match=mentions(path, "no such file")):
        Detector.open(path)
    path.write_bytes(b"no onnx")
    with pytest.raises(ArtifactError, match=mentions(path, "ONNX")):
        Detector.open(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "tpu"}, ["device", "'tpu'"]),
        ({"threads": 0}, ["threads", "0"]),
    ],
)
def test_settings_out_of_range_are_refused(path, options, said):
    with pytest.raises(ConfigError, match=mentions(*said)):
        Detector.open(write_bright_detector(path), **options)
