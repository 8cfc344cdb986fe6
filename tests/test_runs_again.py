"""A run's own files, used to start another run."""

from __future__ import annotations

import pytest
import yaml

from exportloss.cli import main
from exportloss.config import LossConfig
from exportloss.runtime import Manifest
from exportloss.runtime.hyp import TrainingConfig
from exportloss.runtime.run_folder import RunFolder
from tests.training_runs import assert_same_run

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
