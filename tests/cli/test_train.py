import re
import shutil

import pytest
import yaml

from exportloss.cli import main
from exportloss.cli.train.progress import _waiting
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder
from tests.support.device_command import command
from tests.support.messages import error_of, missing
from tests.support.training_runs import assert_same_run


@pytest.fixture(scope="module")
def device_run(ort_artifact, shapes, tmp_path_factory):
    """A run of the command where there is neither torch nor onnx."""
    cwd = tmp_path_factory.mktemp("device")
    (cwd / "hyp.yaml").write_text("lr0: 0.02\nbox: 0.05\nfliplr: 0.25\ncopy_paste: 0.1\n")
    options = ("--epochs", 2, "--hyp", "hyp.yaml", "--cos-lr", "--seed", 3, "--threads", 1)
    done = command("train", "--weights", ort_artifact, "--data", shapes, *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done, RunFolder(cwd / "runs" / "train" / "exp")


def test_the_command_trains_without_torch_and_onnx(device_run, ort_artifact, shapes):
    done, folder = device_run
    lines = done.stdout.splitlines()
    assert not missing(lines[0], "8 images", "3 to validate", "2 epochs", "4 batches")
    assert not missing(lines[1], "warm-up", 100)
    assert not missing(lines[2], "copy_paste")
    assert "moving average" in lines[3]
    assert lines[4].startswith("train: 8 images, ")
    assert lines[5].startswith("val: 3 images, ")
    assert "mosaics" in lines[6]
    assert not missing(lines[7], "recall", "anchors")
    epochs = [line for line in lines if line.startswith(("start  ", "epoch "))]
    assert [line[:9] for line in epochs] == ["start  va", "epoch 0/1", "epoch 1/1"]
    assert "images/s" in epochs[1]
    assert "  runs/train/exp/weights/best.onnx" in lines
    # It ends with what `exportloss val` says of the best detector.
    assert "mAP50-95" in done.stdout
    assert lines[-1].endswith(" runs/train/exp")
    options = yaml.safe_load(folder.options.read_text())
    assert options["weights"] == str(ort_artifact)
    assert options["data"] == str(shapes)
    assert (options["seed"], options["cos_lr"], options["imgsz"]) == (3, True, [64, 64])
    hyp = yaml.safe_load(folder.hyp.read_text())
    assert (hyp["lr0"], hyp["fliplr"], hyp["box"], hyp["momentum"]) == (0.02, 0.25, 0.05, 0.937)
    assert len(read_results(folder.results)) == 2


def test_the_command_resumes_with_the_runs_own_options(device_run, tmp_path):
    _, whole = device_run
    folder = RunFolder(shutil.copytree(whole.path, tmp_path / "exp"))
    folder.best_onnx.unlink()
    folder.last.unlink()  # as if interrupted in the first epoch
    done = command("train", "--resume", folder.path, "--threads", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, whole)
    again = command("train", "--resume", folder.path, cwd=tmp_path)
    assert again.returncode == 2
    assert not missing(error_of(again.stderr), "complete", 2)
    other = command("train", "--resume", folder.path, "--seed", 9, cwd=tmp_path)
    assert other.returncode == 2
    assert not missing(error_of(other.stderr), "--seed 9", 3)


def test_a_device_cannot_export(shapes, tmp_path):
    done = command("train", "--weights", "yolov5n", "--data", shapes, cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install " in done.stderr
    assert "[export]" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_bad_images_are_left_out_on_request(ort_artifact, shapes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    root = shutil.copytree(shapes.parent, tmp_path / "shapes")
    bad = min((root / "labels" / "train").iterdir())
    bad.write_text("0 .5 .5 .1\n")
    options = ["train", "--weights", str(ort_artifact), "--data", str(root / "data.yaml")]
    options += ["--epochs", "1", "--cache"]
    assert main(options) == 2
    assert not missing(capsys.readouterr().err, f"{bad}:1: ", 4)
    assert main([*options, "--skip-bad"]) == 0
    printed = capsys.readouterr().out
    assert "7 images" in printed
    assert re.search(rf"^warning: .* 1\n  {re.escape(str(bad))}:1: 4 ", printed, re.MULTILINE)


def test_waiting_for_images_is_said():
    assert _waiting(0.05) == ""
    assert not missing(_waiting(0.12), "12%", "images")


@pytest.fixture
def words(ort_artifact, shapes, tmp_path, monkeypatch):
    """What the capitals below stand for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "hyp.yaml").write_text("box: 0.1\n")
    text = shapes.read_text().replace("path: .", f"path: {shapes.parent}")
    (tmp_path / "other.yaml").write_text(text.replace("circle", "circles"))
    (tmp_path / "noval.yaml").write_text(text.replace("images/val", str(tmp_path / "empty")))
    words = {"ART": str(ort_artifact), "DATA": str(shapes), "EMPTY": "empty", "HYP": "hyp.yaml"}
    return words | {"OTHER": "other.yaml", "NOVAL": "noval.yaml"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("", ("--weights", "--data")),
        ("--weights ART", ("--weights", "--data")),
        ("--weights ART --data gone.yaml", ("gone.yaml: ", "no such file")),
        ("--weights EMPTY --data DATA", ("empty", "manifest.json")),
        ("--weights gone/folder --data DATA", ("gone/folder: ", "no such file")),
        ("--weights yolov9n --data DATA", ("yolov9n", "yolov5n")),
        ("--weights ART --data DATA --imgsz 128", ("imgsz", (128, 128), (64, 64))),
        ("--weights ART --data DATA --batch-size 4", ("batch-size", 4, 2)),
        ("--weights ART --data DATA --optimizer adamw", ("optimizer", "adamw", "sgd")),
        ("--weights ART --data DATA --freeze 10", ("freeze", 10)),
        ("--weights ART --data DATA --update bias", ("update", "bias")),
        ("--weights ART --data DATA --memory 64", ("memory", 64.0)),
        ("--weights ART --data DATA --epochs 0", ("epochs", 0, 1)),
        ("--weights ART --data DATA --workers 0", ("workers", 0)),
        ("--weights ART --data DATA --seed -1", ("seed", -1)),
        ("--weights ART --data DATA --device tpu", ("device", "'tpu'")),
        ("--weights ART --data DATA --hyp HYP", ("hyp.yaml", "box", 0.1, 0.05)),
        ("--weights ART --data OTHER", ("class 0", "'circles'", "'circle'")),
        ("--weights ART --data NOVAL", ("empty", "no image")),
        ("--resume EMPTY", ("empty", "opt.yaml")),
    ],
)
def test_what_is_wrong_is_said_before_a_folder_is_made(words, tmp_path, capsys, arguments, told):
    before = set(tmp_path.iterdir())
    assert main(["train", *(words.get(word, word) for word in arguments.split())]) == 2
    assert not missing(error_of(capsys.readouterr().err), *told)
    assert set(tmp_path.iterdir()) == before
