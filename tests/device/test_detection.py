"""`val` and `detect` on a plain onnxruntime: pycocotools' numbers, without it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from exportloss.cli import main
from exportloss.runtime import TrainSession
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.evaluation.validate import validate


@pytest.fixture
def run(device, tmp_path, monkeypatch) -> Path:
    """A run's folder with the detector of bright cells; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    (folder / "weights").mkdir(parents=True)
    shutil.copy(device / "bright.onnx", folder / "weights" / "best.onnx")
    return folder


def test_validate_has_the_numbers_of_pycocotools(device, expected):
    detector = Detector.open(device / "bright.onnx", threads=1)
    dataset = Dataset.open(read_data_yaml(device / "spots" / "data.yaml"), "val")
    metrics = validate(
        lambda batch: detector.predict(batch.images),
        Batches(dataset, 4, (64, 64)),
        num_classes=dataset.num_classes,
    ).metrics
    assert 0.1 < metrics.map50_95 < metrics.map50 < 0.9
    assert metrics.map50 == pytest.approx(expected["coco"]["map50"], abs=1e-6)
    assert metrics.map50_95 == pytest.approx(expected["coco"]["map50_95"], abs=1e-6)


def test_the_working_folder_gives_a_detector_no_modules(device, tmp_path, monkeypatch):
    """On each Python: 3.10 has no option for that."""
    for name in ("numpy", "json", "importlib", "onnxruntime", "exportloss"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('taken from the working folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    detector = Detector.open(device / "bright.onnx", threads=1, contained=True)
    predictions = detector.predict(np.zeros((1, 3, 64, 64), np.uint8))
    assert predictions.shape == (1, 64, 7)


def _printed(capsys):
    """What was printed, without the blank line with which rich before 15 begins a table."""
    return [line for line in capsys.readouterr().out.splitlines() if line.strip()]


def test_val_of_a_run(device, run, tmp_path, capsys):
    data = str(device / "spots" / "data.yaml")
    arguments = ["--weights", str(run), "--data", data, "--imgsz", "64", "--threads", "1"]
    assert main(["val", *arguments, "--save-json", "--save-txt"]) == 0
    lines = _printed(capsys)
    assert [line.split()[0] for line in lines[:5]] == ["val:", "Class", "all", "green", "blue"]
    assert any("plots" in line and "pip install matplotlib" in line for line in lines)
    folder = tmp_path / "runs" / "val" / "exp"
    images = {f"val_batch0_{kind}.jpg" for kind in ("labels", "pred")}
    assert {path.name for path in folder.iterdir()} == {
        *images,
        *("labels", "best_predictions.json"),
    }


def test_val_of_artifacts(device, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (device / "spots" / "data.yaml").read_text()
    names = list(TrainSession.open(device / "sgd").manifest.names)
    text = text.replace("path: .", f"path: {device / 'spots'}")
    (tmp_path / "data.yaml").write_text(text.replace("[green, blue]", str(names)))
    arguments = ["--weights", str(device / "sgd"), "--data", "data.yaml", "--threads", "1"]
    assert main(["val", *arguments]) == 0
    lines = _printed(capsys)
    assert lines[2].split()[:3] == ["all", "6", "18"]
    assert any("loss: box " in line for line in lines)


@pytest.mark.parametrize("weights", ["run", "sgd"])
def test_detect(device, run, tmp_path, capsys, weights):
    folder = run if weights == "run" else device / weights
    source = device / "spots" / "images" / "val"
    arguments = ["--weights", str(folder), "--source", str(source), "--threads", "1"]
    size = ["--imgsz", "64"] if weights == "run" else []
    assert main(["detect", *arguments, *size, "--save-json"]) == 0
    assert "image 6/6" in capsys.readouterr().out
    results = tmp_path / "runs" / "detect" / "exp"
    assert len(list(results.glob("*.png"))) == 6
    entries = json.loads((results / "detections.json").read_text())
    assert [Path(entry["image"]).name for entry in entries] == sorted(
        path.name for path in source.iterdir()
    )
    if weights == "run":
        assert {len(entry["detections"]) for entry in entries} == {4}
