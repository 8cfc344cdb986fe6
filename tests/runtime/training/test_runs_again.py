"""A run's own files, used to start another run."""

from __future__ import annotations

import argparse
import dataclasses
import shutil

import pytest
import yaml

from exportloss.cli import main
from exportloss.cli.export.command import add_parser
from exportloss.cli.export.from_run import fill_from_run
from exportloss.config import LossConfig
from exportloss.runtime import Manifest
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.training.hyp import TrainingConfig
from exportloss.runtime.training.run_folder import RunFolder
from tests.support.training_runs import assert_same_run

# Every key of YOLOv5's hyperparameter files but `anchors`, which is a comment there.
KEYS = """lr0 lrf momentum weight_decay warmup_epochs warmup_momentum warmup_bias_lr box cls cls_pw
obj obj_pw iou_t anchor_t fl_gamma hsv_h hsv_s hsv_v degrees translate scale shear perspective
flipud fliplr mosaic mixup copy_paste""".split()


@pytest.fixture(scope="module")
def first(shapes, tmp_path_factory):
    """A run that exported for itself, with gains that are scaled."""
    cwd = tmp_path_factory.mktemp("first")
    (cwd / "hyp.yaml").write_text("lr0: 0.02\nbox: 0.07\nobj: 0.9\nmixup: 0.25\niou_t: 0.3\n")
    assert main(arguments(shapes, cwd, "yolov5n", cwd / "hyp.yaml")) == 0
    return RunFolder(cwd / "exp")


def arguments(shapes, project, weights, hyp):
    size = ("--imgsz", 64, "--batch-size", 2, "--max-targets", 64)
    options = ("--data", shapes, "--hyp", hyp, "--epochs", 1, "--threads", 1, "--project", project)
    return [*map(str, ("train", "--weights", weights, *size, *options))]


def test_hyp_yaml_holds_what_was_said_and_every_key_of_the_originals(first):
    written = yaml.safe_load(first.hyp.read_text())
    assert not set(KEYS) - set(written)
    said = {"lr0": 0.02, "box": 0.07, "obj": 0.9, "mixup": 0.25, "iou_t": 0.3}
    assert said.items() <= written.items()
    assert (written["cls"], written["copy_paste"]) == (LossConfig().cls, 0.0)
    assert Manifest.read(first.artifacts).loss.obj == pytest.approx(0.9 * (64 / 640) ** 2)
    TrainingConfig.from_mapping(written)


@pytest.mark.parametrize("weights", ["yolov5n", "artifacts"])
def test_hyp_yaml_used_again_trains_to_the_same_bits(first, shapes, tmp_path, weights):
    weights = first.artifacts if weights == "artifacts" else weights
    assert main(arguments(shapes, tmp_path, weights, first.hyp)) == 0
    assert_same_run(RunFolder(tmp_path / "exp"), first)
    assert (tmp_path / "exp" / "hyp.yaml").read_bytes() == first.hyp.read_bytes()


@pytest.mark.parametrize("what", ["path", "best"])
def test_an_export_of_a_run_is_as_the_run_was_trained(first, tmp_path, what):
    given = ("--weights", str(getattr(first, what)), "--output", str(tmp_path / "out"))
    assert main(["export", *given, "--format", "onnx,loss"]) == 0
    trained, found = Manifest.read(first.artifacts), Manifest.read(tmp_path / "out" / "loss")
    for name in ("image_size", "batch_size", "max_targets", "names", "anchors", "strides"):
        assert getattr(found, name) == getattr(trained, name), name
    for name, value in dataclasses.asdict(trained.loss).items():
        assert getattr(found.loss, name) == pytest.approx(value), name
    detector = Detector.open(tmp_path / "out" / "best.onnx", threads=1)
    assert (detector.image_size, detector.names) == ((64, 64), trained.names)


def parsed(*arguments):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    return parser.parse_args(["export", *map(str, arguments)])


def test_what_is_said_goes_before_what_the_run_was(first):
    said = ("--imgsz", 96, "--batch-size", 8, "--no-ema", "--hyp", "other.yaml")
    filled = fill_from_run(parsed("--weights", first.path, "--format", "step", *said))
    assert (filled.imgsz, filled.batch_size, filled.ema) == ([96], 8, False)
    assert filled.hyp == "other.yaml"
    assert filled.weights == str(first.best)
    plain = fill_from_run(parsed("--weights", first.path, "--format", "step"))
    assert (plain.imgsz, plain.batch_size, plain.max_targets) == ([64, 64], 2, 64)
    assert (plain.optimizer, plain.ema, plain.precision) == ("sgd", True, "float32")
    assert (plain.hyp, plain.freeze, plain.head) == (str(first.hyp), None, None)


def test_weights_alone_take_nothing_from_the_run(first, capsys):
    filled = fill_from_run(parsed("--weights", first.path, "--format", "pt"))
    assert (filled.weights, filled.imgsz, filled.hyp) == (str(first.best), None, None)
    assert capsys.readouterr().out == ""


def test_a_run_whose_artifacts_are_gone_knows_its_size(first, tmp_path):
    copy = RunFolder(shutil.copytree(first.path, tmp_path / "copy"))
    shutil.rmtree(copy.artifacts)
    options = yaml.safe_load(copy.options.read_text()) | {"weights": "gone"}
    copy.options.write_text(yaml.safe_dump(options))
    filled = fill_from_run(parsed("--weights", copy.path, "--format", "loss"))
    assert (filled.imgsz, filled.batch_size, filled.max_targets) == ([64, 64], 2, 64)


def test_a_folder_that_is_no_run_is_not_exported(first, tmp_path, capsys):
    assert main(["export", "--weights", str(first.artifacts), "--output", str(tmp_path / "o")]) == 2
    assert str(first.artifacts) in capsys.readouterr().err
    copy = RunFolder(shutil.copytree(first.path, tmp_path / "copy"))
    copy.best.unlink()
    assert main(["export", "--weights", str(copy.path), "--output", str(tmp_path / "o")]) == 2
    assert str(copy.best) in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("size", ["yolov5n", "s6", "m-v5.0"])
def test_a_size_is_no_folder_of_that_name(first, tmp_path, monkeypatch, size):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(first.path, tmp_path / size)
    assert fill_from_run(parsed("--weights", size)).weights == size
