"""The reader of ONNX files sees in them what the onnx package sees, or refuses them."""

from __future__ import annotations

import contextlib
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from exportloss.errors import ArtifactError
from exportloss.runtime.artifact.onnx_files.onnx_file import OnnxFile, OnnxValue, parse_onnx
from exportloss.runtime.artifact.onnx_files.protobuf import embedded, fields, number
from exportloss.runtime.evaluation.inference import Detector
from fuzzing.differences import differences
from fuzzing.mutations import mutated
from fuzzing.targets import SEEDS

DETECTOR = (SEEDS / "onnx" / "detector.onnx").read_bytes()
OPSET = embedded(8, number(2, 18))
EXTERNAL_DATA, DATA_LOCATION = 13, 14
UNKNOWN = 1 << 32  # a bit of a tag that a reader of 32 bits does not see


def varint(value: int, *, size: int = 0) -> bytes:
    """Encode a number of up to 70 bits, in `size` bytes if they are more than it needs."""
    size = max(size, -(-value.bit_length() // 7), 1)
    parts = [value >> 7 * index & 0x7F for index in range(size)]
    return bytes([*(part | 0x80 for part in parts[:-1]), parts[-1]])


def tagged(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content


def external(tag_of_data: bytes, tag_of_place: bytes, path: str) -> bytes:
    """A detector with a tensor in another file, whose tags are these bytes."""
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1]).SerializeToString()
    entry = embedded(1, b"location") + embedded(2, path.encode())
    tensor += tagged(tag_of_data, entry) + tag_of_place + b"\1"
    return DETECTOR + embedded(7, embedded(5, tensor))


DATA, PLACE = EXTERNAL_DATA << 3 | 2, DATA_LOCATION << 3


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (varint(DATA), varint(PLACE)),
        (varint(DATA | UNKNOWN), varint(PLACE | UNKNOWN)),
        (varint(DATA | UNKNOWN << 2), varint(PLACE | UNKNOWN << 2)),
        (varint(DATA | 1 << 34), varint(PLACE)),
        (varint(DATA | 1 << 63), varint(PLACE | 1 << 63)),
        (varint(DATA, size=2), varint(PLACE, size=2)),
        (varint(DATA, size=5), varint(PLACE, size=5)),
        (varint(DATA, size=10), varint(PLACE, size=10)),
        (varint(DATA | 1 << 69), varint(PLACE | 1 << 69)),
    ],
)
def test_no_encoding_of_a_tag_hides_a_tensor_in_another_file(tmp_path, data, place):
    (tmp_path / "victim").write_bytes(bytes(4))
    content = external(data, place, "victim")
    with pytest.raises(ValueError, match=r"external data|encoded"):
        parse_onnx(content)
    (tmp_path / "a.onnx").write_bytes(content)
    with pytest.raises(ArtifactError):
        Detector.open(tmp_path / "a.onnx")


@pytest.mark.parametrize(
    "message",
    [
        b"\x00\x00",  # field 0
        varint(1 << 32 | 8) + b"\0",
        varint(1 << 35) + b"\0",
        varint(8, size=2) + b"\0",
        b"\x08" + varint(1, size=2),
        b"\x08" + varint(1 << 64),
        b"\x08" + b"\xff" * 10,
        b"\x0a" + varint(1, size=2) + b"a",
        b"\x0a" + varint(1 << 31),
        b"\x0a" + varint(1 << 32 | 1) + b"a",
        b"\x0b\x0c",  # a group
        b"\x0e",  # wire types that there are none of
        b"\x0f",
        b"\x0d\0\0\0",  # cut off
        b"\x08",
        b"\x80",
    ],
)
def test_what_no_writer_encodes_is_refused(message):
    with pytest.raises(ValueError, match=r"\d"):
        list(fields(memoryview(message)))


def test_the_largest_numbers_that_there_are_are_read():
    largest = varint((1 << 29) - 1 << 3)
    message = largest + varint((1 << 64) - 1) + b"\x09" + bytes(8) + b"\x0d" + bytes(4)
    assert list(fields(memoryview(message))) == [
        ((1 << 29) - 1, (1 << 64) - 1),
        (1, None),
        (1, None),
    ]


def model_of(value: bytes) -> bytes:
    return OPSET + embedded(7, embedded(11, value))


def tensor_type(element: int, *sides: bytes) -> bytes:
    shape = b"".join(embedded(1, side) for side in sides)
    return embedded(2, embedded(1, number(1, element) + embedded(2, shape)))


NAMED = embedded(1, b"x")
SEQUENCE = embedded(4, embedded(1, embedded(1, number(1, 7))))
LARGEST = varint((1 << 64) - 1)


@pytest.mark.parametrize(
    ("value", "name", "expected"),
    [
        # Of alternatives the last counts.
        (NAMED + tensor_type(1, number(1, 3) + embedded(2, b"n")), "x", OnnxValue(1, ("n",))),
        (NAMED + tensor_type(1, embedded(2, b"n") + number(1, 3)), "x", OnnxValue(1, (3,))),
        (NAMED + tensor_type(1) + embedded(2, SEQUENCE), "x", OnnxValue(0)),
        (NAMED + embedded(2, SEQUENCE) + tensor_type(1), "x", OnnxValue(1, ())),
        (
            NAMED + tensor_type(7, number(1, 2)) + embedded(2, SEQUENCE) + tensor_type(1),
            "x",
            OnnxValue(1, ()),
        ),
        # Messages merge: dimensions are joined, numbers and names replaced.
        (
            NAMED + tensor_type(7, number(1, 2)) + tensor_type(1, number(1, 3)),
            "x",
            OnnxValue(1, (2, 3)),
        ),
        (embedded(1, b"y") + tensor_type(1) + NAMED, "x", OnnxValue(1, ())),
        (NAMED + embedded(2, embedded(1, number(1, 1))), "x", OnnxValue(1, None)),
        # A known field of another wire type is an unknown field.
        (NAMED + b"\x0d\0\0\0\0" + tensor_type(1), "x", OnnxValue(1, ())),
        (NAMED + b"\x11" + bytes(8), "x", OnnxValue(0)),
        (NAMED + tensor_type(1, b"\x08" + LARGEST), "x", OnnxValue(1, (-1,))),
        (NAMED, "x", OnnxValue(0)),
        (b"", "", OnnxValue(0)),
    ],
)
def test_repeated_fields_count_as_protocol_buffers_say(value, name, expected):
    content = model_of(value)
    assert parse_onnx(content) == OnnxFile(opset=18, inputs={name: expected}, outputs={})
    assert not differences(content)


@pytest.mark.parametrize(
    "value",
    [
        NAMED + tensor_type(1 << 32 | 1),  # 1 to a reader of 32 bits
        embedded(1, b"\xff") + tensor_type(1),
        NAMED + tensor_type(1, embedded(2, b"\xed\xa0\x80")),
    ],
)
def test_values_that_readers_see_differently_are_refused(value):
    with pytest.raises(ValueError, match=r"not UTF-8|not an element type"):
        parse_onnx(model_of(value))


def test_two_inputs_of_one_name_are_refused():
    with pytest.raises(ValueError, match="'x'"):
        parse_onnx(OPSET + embedded(7, embedded(11, NAMED) * 2))


def test_compiled_code_of_another_file_is_refused():
    node = helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="/etc/passwd"
    )
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    with pytest.raises(ValueError, match="EPContext"):
        parse_onnx(model.SerializeToString())


def test_a_fuzzed_reader_that_differs_is_noticed(monkeypatch):
    def read(_: bytes) -> OnnxFile:
        return OnnxFile(opset=17, inputs={}, outputs={})

    monkeypatch.setattr("fuzzing.differences.parse_onnx", read)
    assert "inputs" in " ".join(differences(DETECTOR))
    assert any("another file" in each for each in differences(external(b"\x6a", b"\x70", "v")))


def test_the_onnx_package_sees_what_is_seen_here():
    seeds = [path.read_bytes() for path in sorted((SEEDS / "encoding").iterdir())]
    for content in mutated(seeds, [b"\x6a", b"\x70\1", b"\xea\x80\x80\x80\x10"], 3_000):
        with contextlib.suppress(ValueError):
            assert not differences(content)


def test_a_link_that_is_read_is_still_only_an_onnx_file(tmp_path):
    """Paths are the user's to choose; what lies there is what is checked."""
    (tmp_path / "real").write_bytes(DETECTOR)
    link = tmp_path / "a.onnx"
    link.symlink_to(Path("real"))
    assert Detector.open(link).stride == 32
    assert onnx.load(link).graph.name == "detector"
