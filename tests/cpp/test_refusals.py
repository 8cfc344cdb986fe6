"""What the C++ runtime refuses, and how it says so."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from exportloss.runtime.artifact.listed_files import describe_file
from exportloss.runtime.artifact.manifest import Manifest
from exportloss.runtime.artifact.state import load_state, save_state


@pytest.fixture
def folder(artifacts: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artifacts / "small-sgd", tmp_path / "copy"))


def change(folder: Path, **values: object) -> None:
    """Write other values into the manifest of a folder, with its checksum."""
    manifest = dataclasses.replace(Manifest.read(folder), **values)
    (folder / "manifest.json").write_text(manifest.to_json())


def refused(probe, folder: Path, match: str) -> None:
    with pytest.raises(Exception, match=match):
        probe("train", folder=folder, steps=[])


def test_a_changed_bit_of_any_file_is_noticed(probe, folder):
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        damaged = bytearray(content)
        damaged[len(damaged) // 2] ^= 1
        path.write_bytes(damaged)
        refused(probe, folder, rf"{path.name}.* (damaged|not readable)")
        path.write_bytes(content)
    probe("train", folder=folder, steps=[])


def test_a_missing_file_is_named(probe, folder):
    (folder / "eval_step.onnx").unlink()
    refused(probe, folder, r"eval_step\.onnx: no such file")


def test_a_link_is_refused(probe, folder, tmp_path):
    moved = (folder / "train_step.onnx").rename(tmp_path / "elsewhere.onnx")
    (folder / "train_step.onnx").symlink_to(moved)
    refused(probe, folder, r"train_step\.onnx: .*regular file")


def test_an_unknown_file_is_compared_and_otherwise_ignored(probe, folder):
    other = folder / "other.bin"
    other.write_bytes(b"something")
    change(folder, files={**Manifest.read(folder).files, "other.bin": describe_file(other)})
    probe("train", folder=folder, steps=[])
    other.write_bytes(b"Something")
    refused(probe, folder, r"other\.bin.* damaged")


@pytest.mark.parametrize("name", ["../state.safetensors", "..", "a/b", "a\\b", "C:a", "a\nb"])
def test_names_that_leave_the_folder_are_refused(probe, folder, name):
    files = Manifest.read(folder).files
    change(folder, files={**files, name: files["state.safetensors"]})
    refused(probe, folder, "outside the folder")


def test_another_kind_is_named(probe, artifacts):
    refused(probe, artifacts / "loss", "the loss alone")


def test_a_graph_of_another_signature_is_refused(probe, folder):
    change(folder, max_targets=Manifest.read(folder).max_targets + 1)
    refused(probe, folder, r"train_step\.onnx: 'targets'.*\(17, 6\)")


def test_a_state_of_another_model_is_refused(probe, artifacts, folder):
    other = artifacts / "sgd" / "state.safetensors"
    with pytest.raises(Exception, match="another model"):
        probe("train", folder=folder, resume=other, steps=[])


def test_a_text_is_not_a_folder(probe, tmp_path):
    refused(probe, tmp_path, "not an artifacts folder")


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ([0, 0, 0.5, 0.5, 0.5, 1.5], r"row 0: height is 1\.5, over 1"),
        ([9, 0, 0.5, 0.5, 0.5, 0.5], r"image is 9; expected 0 to 1"),
        ([0, 0.5, 0.5, 0.5, 0.5, 0.5], r"class is 0\.5; expected a whole number"),
    ],
)
def test_bad_targets_are_refused(probe, artifacts, row, match):
    folder = artifacts / "small-sgd"
    manifest = Manifest.read(folder)
    images = np.zeros((1, manifest.batch_size, 3, *manifest.image_size), np.uint8)
    step = {"batch": 0, "lr": (0.1,) * 3, "targets": [row]}
    with pytest.raises(Exception, match=match):
        probe("train", folder=folder, tensors={"images": images}, steps=[step])


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"lr": (1001.0, 0.0, 0.0)}, r"lr \(weights\) is 1001"),
        ({"lr": (0.1,) * 3, "momentum": 1.0}, "momentum is 1"),
        ({"lr": (0.1,) * 3, "max_norm": 0.0}, "max_norm is 0"),
    ],
)
def test_settings_out_of_range_are_refused(probe, artifacts, settings, match):
    folder = artifacts / "small-sgd"
    manifest = Manifest.read(folder)
    images = np.zeros((1, manifest.batch_size, 3, *manifest.image_size), np.uint8)
    step = {"batch": 0, "targets": [], **settings}
    with pytest.raises(Exception, match=match):
        probe("train", folder=folder, tensors={"images": images}, steps=[step])


def test_a_later_manifest_is_newer(probe, folder):
    values = json.loads((folder / "manifest.json").read_text())
    path = folder / "manifest.json"
    path.write_text(
        json.dumps(
            {key: values[key] for key in values if key != "sha256"} | {"format": "exportloss/9"}
        )
    )
    refused(probe, folder, "written by a newer exportloss")


def test_a_balance_of_another_shape_is_refused(probe, artifacts, tmp_path):
    folder = artifacts / "small-sgd"
    state = load_state(folder / "state.safetensors")
    other = dataclasses.replace(state, loss={"balance": state.loss["balance"][:, None]})
    save_state(tmp_path / "other.safetensors", other, manifest=Manifest.read(folder))
    with pytest.raises(Exception, match="balance has 2 dimensions"):
        probe("train", folder=folder, resume=tmp_path / "other.safetensors", steps=[])


def test_a_path_that_cannot_be_looked_up_is_named(probe, folder, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop.name)
    for path in (tmp_path / ("a" * 300), loop):
        message = rf"{path.name[:20]}.*: cannot be read: "
        refused(probe, path, message)
        with pytest.raises(Exception, match=message):
            probe("train", folder=folder, resume=path, steps=[])


def test_spaces_and_other_scripts_in_paths(probe, folder, tmp_path):
    moved = folder.rename(tmp_path / "Fotos für 検査 \U0001f6b2")
    probe("train", folder=moved, steps=[], save=moved / "Stand 一.safetensors")
    probe("train", folder=moved, steps=[], resume=moved / "Stand 一.safetensors")


def test_a_state_that_cannot_be_written_is_named(probe, folder, tmp_path):
    (tmp_path / "taken").mkdir()
    for path in (tmp_path / "none" / "state.safetensors", tmp_path / "taken"):
        with pytest.raises(Exception, match=f"{path}.* cannot be written"):
            probe("train", folder=folder, steps=[], save=path)
    assert not list(tmp_path.glob("*.partial"))
