"""A detector of one's own: exported from the command line, trained, validated, used."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from exportloss.cli import main
from exportloss.cli.export.own_model import load_own_model
from exportloss.runtime import Manifest
from tests.support.anchor_free import CLASSES, REG_MAX, STRIDES, AnchorFree
from tests.support.messages import error_of, missing
from tests.support.tiny_runs import NAMES

# A module as a user writes it, in the folder where the command runs.
MODULE = """
from tests.support.anchor_free import AnchorFree

def build(num_classes=3):
    return AnchorFree(num_classes, width=8)

def without_strides():
    import torch
    return torch.nn.Linear(1, 1)

def number():
    return 3

def fixed():
    return AnchorFree(3, width=8)

def broken():
    raise RuntimeError("no such block")

def leaves():
    raise SystemExit("usage: mine [-h]")

def bad_strides():
    model = AnchorFree(3, width=8)
    model.strides = None
    return model

constant = 5
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine_for_export.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def exported(place, tiny_shapes) -> Path:
    hyp = place / "hyp.yaml"
    hyp.write_text("dfl: 2.0\nlr0: 0.02\n")
    arguments = (
        *("--model", "mine_for_export:build", "--loss", "task-aligned", "--data", tiny_shapes),
        *("--img", 64, "--batch", 2, "--max-targets", 32, "--ema", "--hyp", hyp),
        *("--format", "step,loss,onnx", "--output", "out"),
    )
    assert main(["export", *map(str, arguments)]) == 0
    return place / "out"


@pytest.fixture(scope="module")
def trained(exported, place, tiny_shapes) -> Path:
    arguments = (
        *("--weights", exported / "step", "--data", tiny_shapes, "--epochs", 1),
        *("--project", place / "runs", "--workers", 1, "--threads", 1),
    )
    assert main(["train", *map(str, arguments)]) == 0
    return place / "runs" / "exp"


def test_an_export_has_the_detectors_sizes_and_the_files_gains(exported):
    manifest = Manifest.read(exported / "step")
    assert (manifest.model, manifest.names, manifest.strides) == ("AnchorFree", NAMES, STRIDES)
    assert (manifest.loss.kind, manifest.loss.dfl, manifest.loss.box) == ("task-aligned", 2.0, 7.5)
    assert manifest.loss.reg_max == REG_MAX  # the detector's own
    assert Manifest.read(exported / "loss").loss_layout == "head-output"
    assert (exported / "build.onnx").is_file()


def test_a_run_has_the_names_of_its_terms(trained, capsys):
    with (trained / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    losses = [name for name in row if name.endswith("_loss")]
    terms = ("box_loss", "cls_loss", "dfl_loss")
    assert losses == [f"{split}/{term}" for split in ("train", "val") for term in terms]
    assert all(float(row[name]) > 0 for name in losses)
    assert (trained / "results.png").is_file()


def test_a_run_goes_on(trained):
    """Its hyperparameters are those of its own loss."""
    arguments = ("--resume", trained, "--epochs", 2, "--workers", 1, "--threads", 1)
    assert main(["train", *map(str, arguments)]) == 0
    assert len((trained / "results.csv").read_text().splitlines()) == 3


def test_what_a_run_wrote_validates_and_detects(trained, exported, tiny_shapes, place, capsys):
    images = tiny_shapes.parent / "images" / "val"
    val = ("--data", tiny_shapes, "--project", place / "val")
    assert main(["val", "--weights", str(trained), *map(str, val)]) == 0
    assert main(["val", "--weights", str(exported / "step"), *map(str, val)]) == 0
    assert not missing(capsys.readouterr().out, "mAP50", "box ", "cls ", "dfl ")
    detect = ("--source", images, "--project", place / "detect")
    assert main(["detect", "--weights", str(exported / "build.onnx"), *map(str, detect)]) == 0


def test_verify_takes_the_function(exported, capsys):
    folder, function = str(exported / "step"), "mine_for_export:build"
    assert main(["verify", folder, "--model", function, "--steps", "1", "--threads", "1"]) == 0
    assert not missing(capsys.readouterr().out, "AnchorFree", "dfl", "passed")


def test_weights_of_a_run_or_a_file_go_into_the_function_s_detector(trained, place, capsys):
    """For the same classes all of them, for others all but those that depend on their number."""
    function = ("--model", "mine_for_export:build")
    export = ("--format", "onnx", "--img", "64", "--output")
    assert main(["export", *function, "--weights", str(trained), *export, str(place / "a")]) == 0
    said = capsys.readouterr().out
    total = len([n for n in AnchorFree(3, width=8).state_dict() if "num_batches" not in n])
    assert not missing(said, f"{total} of {total} tensors", "best.safetensors")
    best = str(trained / "weights" / "best.safetensors")
    other = (*function, "--nc", "5", "--weights", best)
    assert main(["export", *other, *export, str(place / "b")]) == 0
    assert not missing(capsys.readouterr().out, f"{total - 4} of {total}", "5 classes instead of 3")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "mine_for_export:build"], ["--loss task-aligned", "AnchorFree"]),
        (["--model", "mine_for_export:nothing"], ["mine_for_export.py", "nothing"]),
        (["--model", "mine_for_export:constant"], ["mine_for_export.py", "constant"]),
        (["--model", "mine_for_export:"], ["detectors.mine:build"]),
        (["--model", "no_such_module:build"], ["no_such_module", "ModuleNotFoundError"]),
        (["--model", "../x:build"], ["'../x'", "detectors.mine:build", "PYTHONPATH", "x:build"]),
        (["--model", "a/b.py:build"], ["'a/b.py'", "write a.b:build"]),
        (["--model", "mine_for_export.py:build"], ["write mine_for_export:build"]),
        (
            [
                *("--model", "mine_for_export:build", "--loss", "task-aligned"),
                *("--label-smoothing", "0.1"),
            ],
            ["--label-smoothing 0.1", "task-aligned", "yolov5", "leave it out"],
        ),
        (["--model", "mine_for_export:broken"], ["RuntimeError", "no such block"]),
        (["--model", "mine_for_export:leaves"], ["SystemExit", "usage: mine"]),
        (["--model", "mine_for_export:bad_strides"], ["strides are None", "(8, 16, 32)"]),
        (["--model", "mine_for_export:number"], ["int", "torch module"]),
        (["--model", "mine_for_export:without_strides"], ["Linear", "strides", "num_classes"]),
        (["--model", "mine_for_export:fixed", "--nc", "5"], [3, 5, "num_classes"]),
        (["--model", "mine_for_export:build", "--weights", "n"], ["--weights n", "--model"]),
        (["--model", "mine_for_export:build", "--weights", "no.pt"], ["no.pt", ".safetensors"]),
        (["--nc", "4"], ["--weights", "--model"]),
        (["--weights", "n", "--nc", "3", "--loss", "task-aligned"], ["--loss yolov5", "YoloV5"]),
        (
            ["--model", "mine_for_export:build", "--loss", "task-aligned", "--format", "pt"],
            ["--format pt", "AnchorFree"],
        ),
    ],
)
def test_what_cannot_be_exported_is_refused(place, tmp_path, capsys, arguments, said):
    assert main(["export", *arguments, "--img", "64", "--output", str(tmp_path / "out")]) == 2
    assert missing(error_of(capsys.readouterr().err), *said) == []
    assert not (tmp_path / "out").exists()


def test_train_wants_it_exported(tiny_shapes, tmp_path, capsys):
    arguments = ("--weights", "yolov5n", "--model", "mine_for_export:build", "--data", tiny_shapes)
    assert main(["train", *map(str, arguments), "--project", str(tmp_path)]) == 2
    said = error_of(capsys.readouterr().err)
    assert missing(said, "mine_for_export:build", "exportloss export", "--weights") == []


def test_a_function_gets_the_number_of_classes(place):
    assert load_own_model("mine_for_export:build", 7).num_classes == 7
    assert load_own_model("mine_for_export:build", None).num_classes == CLASSES


def test_a_detector_without_layers_is_exported(place, tmp_path, monkeypatch):
    monkeypatch.delattr(AnchorFree, "layers")
    arguments = ("--model", "mine_for_export:build", "--loss", "task-aligned", "--img", "64")
    assert main(["export", *arguments, "--output", str(tmp_path / "out")]) == 0
