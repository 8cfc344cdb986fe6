"""Artifacts folders that are replaced or deleted while a session is at work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from exportloss.errors import ArtifactError
from exportloss.runtime import TrainSession
from exportloss.runtime.evaluation.inference import Detector
from tests.support.old_folders import unpack


@pytest.fixture
def folder(request, tmp_path) -> Path:
    """A copy of a shared artifact of one kind; `request.param` names it."""
    return shutil.copytree(request.getfixturevalue(f"{request.param}_artifact"), tmp_path / "f")


def outputs(session: TrainSession, path: Path) -> np.ndarray:
    """What the detector that a session writes makes of one batch."""
    session.export_inference(path)
    manifest = session.manifest
    images = np.full((manifest.batch_size, 3, *manifest.image_size), 90, np.uint8)
    return Detector.open(path, threads=1).predict(images)


def deface(folder: Path) -> None:
    """Make all files say something else; graphs are cut short."""
    for path in folder.iterdir():
        if path.name != "manifest.json":
            path.write_bytes(b"")
    values = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(values | {"names": ["other"]}))


@pytest.mark.parametrize("folder", ["tiny", "ort"], indirect=True)
@pytest.mark.parametrize("change", [deface, shutil.rmtree])
def test_a_session_goes_on_with_what_it_opened(folder, tmp_path, change):
    session = TrainSession.open(folder, threads=1)
    manifest = session.manifest
    images = np.zeros((manifest.batch_size, 3, *manifest.image_size), np.uint8)
    wanted = TrainSession.open(folder, threads=1)
    expected = wanted.evaluate(images, np.zeros((0, 6))).loss, outputs(wanted, tmp_path / "a.onnx")
    change(folder)
    assert session.evaluate(images, np.zeros((0, 6))).loss == expected[0]
    np.testing.assert_array_equal(outputs(session, tmp_path / "b.onnx"), expected[1])
    assert Detector.open(tmp_path / "b.onnx").names == Detector.open(tmp_path / "a.onnx").names
    with pytest.raises(ArtifactError):
        TrainSession.open(folder)


@pytest.mark.parametrize("folder", ["ort"], indirect=True)
def test_what_a_session_keeps_beside_it_goes_with_it(folder, tmp_path, monkeypatch):
    private = tmp_path / "private"
    private.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(private))
    session = TrainSession.open(folder, threads=1)
    (own,) = private.iterdir()
    assert own.stat().st_mode & 0o077 == 0
    assert [path.name for path in own.iterdir()] == ["eval_model.onnx"]
    del session
    assert not list(private.iterdir())


def test_a_model_that_makes_no_boxes_gives_no_detector(tmp_path):
    for kind in ("step", "ort"):
        session = TrainSession.open(unpack("0.1", tmp_path / kind) / kind, threads=1)
        with pytest.raises(ArtifactError, match=kind):
            session.export_inference(tmp_path / "a.onnx")
        assert not (tmp_path / "a.onnx").exists()


@pytest.mark.parametrize("folder", ["ort"], indirect=True)
def test_a_place_without_room_for_copies_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(ArtifactError, match="TMPDIR"):
        TrainSession.open(folder)
