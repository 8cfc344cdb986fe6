"""Files of a later version are named as such, and damage still reads as damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exportloss import ArtifactError
from exportloss.models import read_checkpoint, save_state_dict, yolov5
from exportloss.runtime import Manifest, TrainSession
from exportloss.runtime.artifact.file_format import FileFormat
from exportloss.runtime.artifact.manifest import describe_file
from exportloss.runtime.artifact.state import load_state, save_state
from exportloss.runtime.artifact.tensor_file import read_tensor_file, write_tensors
from tests.support.manifests import edit_manifest, read_values
from tests.support.messages import mentions
from tests.support.old_folders import unpack


def newer(file: str | Path, found: str, known: str) -> str:
    """What it is, the file and what was found, what this version knows, and what to do."""
    return mentions("newer", file, found, known, "upgrade exportloss")


@pytest.fixture
def folder(tmp_path) -> Path:
    return unpack("0.1", tmp_path) / "step"


@pytest.mark.parametrize(
    ("changes", "found", "known"),
    [
        ({"format": "exportloss/4"}, "format 4", "up to 3"),
        ({"format": "exportloss/12"}, "format 12", "up to 3"),
        ({"kind": "federated-step"}, "kind 'federated-step'", "train-step, ort-training, loss"),
        ({"optimizer": "lion"}, "optimizer 'lion'", "sgd"),
        ({"precision": "float8"}, "precision 'float8'", "float32"),
        ({"head": "shared"}, "head 'shared'", "dense, sparse"),
        ({"provider": "npu"}, "provider 'npu'", "any, cpu, openvino, gpu"),
        ({"loss_layout": "flat"}, "loss_layout 'flat'", "head-input"),
        ({"loss": {"huber": 1.0}}, "loss key 'huber'", "anchor_t"),
        ({"loss": {"kind": "yolov99", "focus": 2}}, "loss kind 'yolov99'", "yolov5"),
        ({"loss": {"kind": "yolov5", "huber": 1.0}}, "loss key 'huber'", "anchor_t"),
        ({"loss": {"criterion": "varifocal"}}, "criterion 'varifocal'", "qfocal"),
        ({"groups": {"weights": [], "embeddings": []}}, "groups key 'embeddings'", "biases"),
    ],
)
def test_a_manifest_of_a_later_version_is_named(folder, changes, found, known):
    edit_manifest(folder, **changes)
    with pytest.raises(
        ArtifactError, match=newer(folder / "manifest.json", found, known)
    ) as caught:
        TrainSession.open(folder)
    assert "export again" in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": ["loss"]},
        {"kind": None},
        {"optimizer": 3},
        {"precision": {}},
        {"loss": {"box": -1}},
        {"loss": {"kind": ["yolov5"]}},
        {"loss": {"kind": None}},
        {"anchors": []},
        {"loss": {"criterion": 5}},
        {"loss": ["box"]},
        {"groups": "weights"},
        {"layout": {"parameters": 5}},
    ],
)
def test_a_manifest_that_no_version_writes_is_damaged(folder, changes):
    edit_manifest(folder, **changes)
    with pytest.raises(ArtifactError, match=mentions(folder / "manifest.json", "damaged")):
        Manifest.read(folder)


@pytest.mark.parametrize("format_", ["exportloss/0", "exportloss/2.5", "exportloss/", "other/4", 3])
def test_formats_that_are_no_later_ones_are_refused(folder, format_):
    edit_manifest(folder, format=format_)
    with pytest.raises(
        ArtifactError, match=mentions("manifest.json", f"format {format_!r}", "'exportloss/3'")
    ):
        Manifest.read(folder)


@pytest.mark.parametrize("change", [("train-step", "train-stfp"), ("exportloss/2", "exportloss/4")])
def test_damage_is_not_taken_for_a_later_version(step_artifact, tmp_path, change):
    text = (step_artifact / "manifest.json").read_text()
    assert change[0] in text
    (tmp_path / "manifest.json").write_text(text.replace(*change))
    with pytest.raises(
        ArtifactError, match=mentions(tmp_path / "manifest.json", "damaged", "sha256")
    ):
        Manifest.read(tmp_path)


def test_a_manifest_without_checksum_says_nothing_of_later_versions(folder):
    """Those of exportloss/1 have no sha256, and what that version knew does not change any more."""
    path = folder / "manifest.json"
    values = {name: value for name, value in read_values(folder).items() if name != "sha256"}
    path.write_text(json.dumps(values | {"kind": "train-stfp"}))
    with pytest.raises(ArtifactError, match=mentions(path, "damaged", "'train-stfp'")):
        Manifest.read(folder)


def test_a_folder_of_a_later_version_is_not_taken_for_something_else(folder):
    """Its format is looked at before its values, of which nothing is known."""
    edit_manifest(folder, format="exportloss/4", kind={}, loss=[], files=None)
    with pytest.raises(ArtifactError, match=newer(folder / "manifest.json", "format 4", "up to 3")):
        Manifest.read(folder)


def later_state(path: Path, monkeypatch) -> Path:
    """Write a state as a later version does."""
    state = load_state(path)
    later = FileFormat(family="exportloss-state", newest=3, expected="")
    with monkeypatch.context() as patch:
        patch.setattr("exportloss.runtime.artifact.state._FORMAT", later)
        save_state(path, state)
    return path


def test_a_state_of_a_later_version_is_named(folder, monkeypatch):
    path = later_state(folder.parent / "state.safetensors", monkeypatch)
    session = TrainSession.open(folder, threads=1)
    message = newer(path, "format 3", "up to 2")
    for read in (load_state, session.resume, session.start_from, read_checkpoint):
        with pytest.raises(ArtifactError, match=message):
            read(path)
    assert session.updates == 0


def test_an_artifact_whose_state_is_of_a_later_version_is_named(folder, monkeypatch):
    path = later_state(folder / "state.safetensors", monkeypatch)
    files = {name: vars(entry) for name, entry in Manifest.read(folder).files.items()}
    edit_manifest(folder, files=files | {path.name: vars(describe_file(path))})
    with pytest.raises(ArtifactError, match=newer(path, "format 3", "up to 2")):
        TrainSession.open(folder, threads=1)


def test_damage_to_a_state_is_not_taken_for_a_later_version(folder):
    path = folder.parent / "state.safetensors"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"exportloss-state/1", b"exportloss-state/3"))
    with pytest.raises(ArtifactError, match=mentions(path, "damaged", "sha256")):
        load_state(path)
    path.write_bytes(content.replace(b"exportloss-state/1", b"exportloss-statf/1"))
    with pytest.raises(
        ArtifactError, match=mentions(path, "'exportloss-statf/1'", "'exportloss-state/1'")
    ):
        load_state(path)


def test_weights_of_a_later_version_are_named(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_state_dict(yolov5("yolov5n", 2), path)
    file = read_tensor_file(path)
    tensors = {name: tensor.numpy().copy() for name, tensor in file.tensors.items()}
    with path.open("wb") as out:
        write_tensors(out, tensors, dict(file.about) | {"format": "exportloss-weights/2"})
    with pytest.raises(ArtifactError, match=newer(path, "format 2", "up to 1")):
        read_checkpoint(path)
