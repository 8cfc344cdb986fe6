"""A folder whose files are whole and do not fit together: refused before a session is built."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from exportloss import ArtifactError
from exportloss.runtime.artifact import limits
from exportloss.runtime.artifact.check import read_artifact
from exportloss.runtime.artifact.manifest import Manifest, describe_file
from exportloss.runtime.artifact.onnx_files.onnx_file import parse_onnx
from exportloss.runtime.artifact.onnx_files.protobuf import embedded
from exportloss.runtime.artifact.state import load_state
from exportloss.runtime.evaluation.inference import Detector
from tests.support.manifests import edit_manifest, read_values
from tests.support.messages import mentions
from tests.support.old_folders import unpack


@pytest.fixture
def folders(tmp_path) -> Path:
    return unpack("0.1", tmp_path)


def rehash(folder: Path) -> Path:
    """Make the manifest say what the files are now."""
    files = {
        path.name: vars(describe_file(path))
        for path in folder.iterdir()
        if path.name != "manifest.json"
    }
    return edit_manifest(folder, files=files)


def edit_graph(path: Path, change) -> None:
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())


def test_what_belongs_together_is_accepted(folders):
    for kind in ("step", "ort"):
        assert read_artifact(rehash(folders / kind)).kind in ("train-step", "ort-training")


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("step", {"batch_size": 3}, ["'images'", (2, 3, 64, 64), (3, 3, 64, 64)]),
        ("step", {"max_targets": 9}, ["'targets'", (8, 6), (9, 6)]),
        ("step", {"opset": 17}, ["opset 18", "17"]),
        ("step", {"ema": False}, ["input 'ema_"]),
        ("step", {"optimizer": "sgd"}, ["sgd"]),
        ("step", {"layout": {}}, ["layout", "'parameters'"]),
        ("step", {"statistics": []}, ["input 'statistics'"]),
        ("step", {"strides": [8, 16, 32]}, ["3 strides", "2 levels"]),
        ("ort", {"image_size": [64, 128]}, ["'images'", (2, 3, 64, 64), (2, 3, 64, 128)]),
        ("ort", {"groups": {"weights": ["gone"]}}, ["no input 'gone'"]),
        ("ort", {"batch_size": 1 << 30}, ["batch_size", 1073741824]),
        ("ort", {"image_size": [0, 64]}, ["image_size: 0"]),
        ("ort", {"names": []}, ["names: 0"]),
        ("ort", {"files": {}}, ["training_model.onnx"]),
        ("ort", {"files": {str(n): {"sha256": "", "size": 0} for n in range(65)}}, ["65"]),
        ("ort", {"anchors": [[[0, 1]], [[1, 1]]]}, ["anchor", "pixels"]),
        ("ort", {"anchors": [[[float("nan"), 1]], [[1, 1]]]}, ["NaN", "JSON"]),
    ],
)
def test_a_manifest_that_describes_another_folder_is_refused(folders, kind, change, said):
    edit_manifest(folders / kind, **change)
    with pytest.raises(ArtifactError, match=mentions("manifest", *said)):
        read_artifact(folders / kind)


def test_a_layout_with_gaps_is_refused(folders):
    folder = folders / "step"
    layout = read_values(folder)["layout"]
    layout["parameters"][3]["offset"] += 1
    edit_manifest(folder, layout=layout)
    with pytest.raises(ArtifactError, match=r"begins at \d+, expected \d+"):
        read_artifact(folder)


def test_a_graph_of_another_export_is_refused(folders):
    edit_graph(folders / "step" / "train_step.onnx", lambda m: m.graph.output.pop(0))
    with pytest.raises(ArtifactError, match=mentions("train_step.onnx", "no output 'loss'")):
        read_artifact(rehash(folders / "step"))


def test_a_state_of_another_model_is_refused(folders, tmp_path):
    state = folders / "step" / "state.safetensors"
    layout = read_values(folders / "step")["layout"]
    entry = layout["parameters"][-1]
    assert entry["shape"] == [16]
    layout["parameters"][-1]["shape"] = [4, 4]
    edit_manifest(folders / "step", layout=layout)
    with pytest.raises(ArtifactError, match=mentions(entry["name"], (16,), (4, 4))):
        read_artifact(folders / "step")
    assert load_state(state).updates == 0


@pytest.mark.parametrize("location", ["weights.bin", "../outside.bin", "/etc/hostname", "link.bin"])
def test_tensors_in_other_files_are_refused(folders, tmp_path, location):
    """Inside the folder or outside: no file here needs them, so none may have them."""

    def change(model):
        tensor = model.graph.initializer.add()
        tensor.CopyFrom(helper.make_tensor("hidden", TensorProto.FLOAT, [0], []))
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    folder = folders / "step"
    (folder / "link.bin").symlink_to("/etc/hostname")
    edit_graph(folder / "train_step.onnx", change)
    (folder / "link.bin").unlink()
    with pytest.raises(ArtifactError, match=mentions("train_step.onnx", "external data")):
        read_artifact(rehash(folder))
    with pytest.raises(ArtifactError, match=mentions("train_step.onnx", "external data")):
        Detector.open(folder / "train_step.onnx")


def external(name: str = "t") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.external_data.add(key="location", value="../w")
    return tensor


def nested(tensor: TensorProto) -> onnx.GraphProto:
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    return helper.make_graph([node], "inner", [], [])


def around(**attributes: object) -> onnx.GraphProto:
    return helper.make_graph([helper.make_node("X", [], [], **attributes)], "g", [], [])


@pytest.mark.parametrize(
    "graph",
    [
        helper.make_graph([], "g", [], [], [external()]),
        nested(external()),
        helper.make_graph(
            [helper.make_node("If", ["c"], [], then_branch=nested(external()))], "g", [], []
        ),
        helper.make_graph([helper.make_node("X", [], [], ts=[external()])], "g", [], []),
        helper.make_graph([helper.make_node("X", [], [], gs=[nested(external())])], "g", [], []),
    ],
)
def test_tensors_in_other_files_are_found_everywhere(graph):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    with pytest.raises(ValueError, match="external data"):
        parse_onnx(model.SerializeToString())


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_bytes_that_are_no_model_are_an_error_of_ours(data):
    graph = around(tensors=[external()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    content = bytearray(model.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        parse_onnx(bytes(content[: data.draw(st.integers(0, len(content)))]))


def test_messages_in_messages_have_an_end():
    message = b""
    for _ in range(200):  # graph of a node of an attribute of a graph of ...
        message = embedded(1, embedded(5, embedded(6, message)))
    with pytest.raises(ValueError, match="100 deep"):
        parse_onnx(embedded(7, message))


def test_a_class_called_location_is_no_external_data():
    node = helper.make_node("Constant", [], ["location"], value_string="location")
    graph = helper.make_graph([node], "location", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.metadata_props.add(key="location", value="location")
    assert parse_onnx(model.SerializeToString()).opset == 18


def test_signatures_are_read_as_onnx_reads_them(folders):
    for path in folders.glob("*/*.onnx"):
        model, found = onnx.load(path), parse_onnx(path.read_bytes())
        assert found.opset == next(o.version for o in model.opset_import if not o.domain)
        for values, expected in (
            (found.inputs, model.graph.input),
            (found.outputs, model.graph.output),
        ):
            assert list(values) == [value.name for value in expected]
            for value in expected:
                tensor = value.type.tensor_type
                assert values[value.name].type == tensor.elem_type
                if tensor.HasField("shape"):
                    shape = tuple(d.dim_param or d.dim_value for d in tensor.shape.dim)
                    assert values[value.name].shape == shape


def test_a_checkpoint_of_another_model_is_refused(folders, tmp_path):
    from exportloss.runtime import TrainSession

    checkpoint = folders / "ort" / "checkpoint"
    other = checkpoint.read_bytes().replace(b"head.0.bias", b"tail.0.bias")
    checkpoint.write_bytes(other)
    with pytest.raises(ArtifactError, match=mentions(checkpoint, "'head.0.bias'")):
        TrainSession.open(rehash(folders / "ort"))
    checkpoint.write_bytes(other[: len(other) // 2])
    with pytest.raises(ArtifactError, match=mentions(checkpoint)):
        TrainSession.open(rehash(folders / "ort"))


@pytest.mark.parametrize("name", ["train_step.onnx", "state.safetensors"])
def test_links_and_pipes_in_a_folder_are_refused(folders, tmp_path, name):
    path = folders / "step" / name
    path.rename(tmp_path / name)
    path.symlink_to(tmp_path / name)
    with pytest.raises(ArtifactError, match=mentions(path, "regular")):
        read_artifact(folders / "step")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ArtifactError, match=mentions(path, "regular")):
        read_artifact(folders / "step")


def test_sizes_are_limited_before_anything_is_read(folders, tmp_path, monkeypatch):
    manifest = folders / "ort" / "manifest.json"
    os.truncate(manifest, limits.MAX_MANIFEST_BYTES + 1)
    with pytest.raises(
        ArtifactError, match=mentions(manifest, limits.MAX_MANIFEST_BYTES + 1, "8 MiB")
    ):
        Manifest.read(folders / "ort")
    huge = tmp_path / "huge.safetensors"
    huge.write_bytes((limits.MAX_HEADER_BYTES + 1).to_bytes(8, "little") + b"{")
    with pytest.raises(ArtifactError, match=mentions(huge, f"{limits.MAX_HEADER_BYTES + 1} bytes")):
        load_state(huge)
    os.truncate(huge, limits.MAX_STATE_BYTES + 1)
    with pytest.raises(ArtifactError, match=mentions(huge, f"{limits.MAX_STATE_BYTES + 1} bytes")):
        load_state(huge)
    model = tmp_path / "huge.onnx"
    model.touch()
    os.truncate(model, limits.MAX_MODEL_BYTES + 1)
    with pytest.raises(ArtifactError, match=mentions(model, f"{limits.MAX_MODEL_BYTES + 1} bytes")):
        Detector.open(model)


def test_a_manifest_without_its_hash_is_refused(folders):
    path = folders / "step" / "manifest.json"
    values = json.loads(path.read_text()) | {"format": "exportloss/3"}
    path.write_text(json.dumps(values))
    with pytest.raises(ArtifactError, match=mentions(path, "damaged", "sha256")):
        read_artifact(folders / "step")


def test_a_state_without_its_parts_is_refused(tmp_path):
    from safetensors.numpy import save_file

    from exportloss.runtime.artifact.state_digest import state_digest
    from exportloss.runtime.artifact.tensor_file import StoredTensor

    about = {"format": "exportloss-state/2"}
    tensors = {"w": np.zeros(1, np.float32)}
    path = tmp_path / "s.safetensors"
    digest = state_digest({"w": StoredTensor.of(tensors["w"])}, about)
    save_file(tensors, path, metadata=about | {"sha256": digest})
    with pytest.raises(ArtifactError, match=mentions(path, "KeyError", "updates")):
        load_state(path)
    save_file(tensors, path, metadata=about)
    with pytest.raises(ArtifactError, match=mentions(path, "sha256")):
        load_state(path)
