"""The commands on a data set in COCO's format: as on the same one in YOLO's."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from exportloss.cli import main
from exportloss.cli.detection import validation as val_command
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.dataset_check import check_dataset
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.evaluation.metrics import Metrics
from exportloss.runtime.training.run_folder import RunFolder
from tests.support.bright_detector import make_spots, write_bright_detector
from tests.support.coco_files import make_coco, snap_labels, write_json
from tests.support.tiny_detector import IMAGE
from tests.support.tiny_runs import NAMES
from tests.support.training_runs import assert_same_run

QUICK = ("--epochs", 2, "--threads", 1, "--workers", 1, "--batch-size", 2, "--noplots")


def as_coco(recipe: Path, splits: tuple[str, ...], names: tuple[str, ...]) -> Path:
    """Write COCO files beside a data set in YOLO's format; return a `data.yaml` without names."""
    lines = []
    for split in splits:
        folder = recipe.parent / "images" / split
        made = make_coco(sorted(folder.iterdir()), folder, names)
        write_json(recipe.parent / "annotations" / f"instances_{split}.json", made)
        lines.append(f"{split}: annotations/instances_{split}.json\n")
    path = recipe.with_name("coco.yaml")
    path.write_text("".join(lines))
    return path


def run(command: str, *arguments: object) -> None:
    assert main([command, *map(str, arguments)]) == 0


@pytest.fixture
def both(tmp_path, monkeypatch, tiny_shapes):
    """The tiny shapes on whole pixels, in YOLO's format and in COCO's."""
    monkeypatch.chdir(tmp_path)
    recipe = Path(shutil.copytree(tiny_shapes.parent, tmp_path / "data"), tiny_shapes.name)
    snap_labels(recipe.parent / "labels", IMAGE)
    return recipe, as_coco(recipe, ("train", "val"), NAMES)


def test_both_formats_have_the_same_rows_and_train_to_the_same_bits(both, tiny_artifact, capsys):
    labels = [
        check_dataset(Dataset.open(read_data_yaml(recipe), "train")).labels for recipe in both
    ]
    assert sum(map(len, labels[0])) > 8
    for one, two in zip(*labels, strict=True):
        np.testing.assert_array_equal(one, two)
    for name, recipe in zip(("yolo", "coco"), both, strict=True):
        run("train", "--weights", tiny_artifact, "--data", recipe, "--name", name, *QUICK)
    printed = capsys.readouterr().out
    assert " without a label file" in printed
    assert " without a box; " in printed
    assert_same_run(RunFolder(Path("runs/train/coco")), RunFolder(Path("runs/train/yolo")))

    # A second round, and the run resumed for more epochs, as for any other data.
    run("train", "--weights", "runs/train/coco", "--data", both[1], "--name", "second", *QUICK)
    run("train", "--resume", "runs/train/coco", "--epochs", 3, "--data", both[1])
    run("runs", "--project", "runs/train")
    assert "second" in capsys.readouterr().out


@pytest.fixture
def spots(tmp_path, monkeypatch):
    """A data set and a detector that finds most of it."""
    monkeypatch.chdir(tmp_path)
    recipe = as_coco(make_spots(tmp_path / "spots", 12), ("val",), SPOTS)
    names = dict(enumerate(SPOTS))
    return recipe, write_bright_detector(tmp_path / "best.onnx", names=names, stride="32")


SPOTS = ("green", "blue")
VAL = ("--imgsz", 64, "--save-json", "--noplots")


def test_pycocotools_finds_our_map_in_the_very_file(spots, tmp_path, monkeypatch):
    judged: list[Metrics] = []
    monkeypatch.setattr(
        val_command, "print_metrics", lambda metrics, *_, **__: judged.append(metrics)
    )
    run("val", "--weights", spots[1], "--data", spots[0], *VAL)
    truth = tmp_path / "spots" / "annotations" / "instances_val.json"
    evaluation = _evaluate(truth, Path("runs/val/exp/best_predictions.json"))
    precision = evaluation.eval["precision"][..., 0, 0]
    assert 0.1 < precision.mean() < precision[0].mean() < 0.9
    assert judged[0].map50 == pytest.approx(precision[0].mean(), abs=1e-6)
    assert judged[0].map50_95 == pytest.approx(precision.mean(), abs=1e-6)


def _evaluate(truth: Path, results: Path) -> Any:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), "bbox")
        evaluation.params.maxDets = [300]
        evaluation.params.areaRng = evaluation.params.areaRng[:1]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def test_an_export_takes_names_anchors_and_calibration_from_coco(both, tmp_path, capsys):
    options = ("--weights", "yolov5n", "--imgsz", 64, "--format", "onnx", "--output", tmp_path)
    run("export", *options, "--data", both[1], "--int8")
    printed = capsys.readouterr().out
    assert "float32" in printed
    assert re.search(r"calibrat.*\b8 images", printed)
    assert Detector.open(tmp_path / "yolov5n-int8.onnx").names == NAMES


def test_results_are_not_written_among_the_annotations(spots, tmp_path, capsys):
    folder = ("--project", tmp_path / "spots", "--name", "annotations", "--exist-ok")
    arguments = ("val", "--weights", spots[1], "--data", spots[0], *folder)
    assert main([*map(str, arguments)]) == 2
    assert "instances_val.json" in capsys.readouterr().err
