import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import exportloss
from exportloss.cli import main
from exportloss.cli.train.progress import _waiting
from exportloss.runtime.training.results import read_results
from exportloss.runtime.training.run_folder import RunFolder
from tests.support.training_runs import assert_same_run

# What a device has: every import of torch or onnx fails there.
DEVICE = """
import sys
for name in ("torch", "onnx", "onnxscript", "onnx_ir"):
    sys.modules[name] = None
from exportloss.cli import main
sys.exit(main(sys.argv[1:]))
"""


def command(*arguments, cwd, code=DEVICE):
    root = str(Path(exportloss.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
    )


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
    assert lines[0].startswith("8 images to train on, 3 to validate; 2 epochs of 4 batches")
    assert "warm-up takes 100 batches" in lines[1]
    assert "augmentations that this version does not do: copy_paste" in lines[2]
    assert lines[3].startswith("train: 8 images, ")
    assert lines[4].startswith("val: 3 images, ")
    assert lines[5].startswith("mosaics make batches of ")
    assert lines[6].startswith("best possible recall of the anchors: ")
    epochs = [line for line in lines if line.startswith(("start  ", "epoch "))]
    assert [line[:9] for line in epochs] == ["start  va", "epoch 0/1", "epoch 1/1"]
    assert "images/s" in epochs[1]
    assert "  runs/train/exp/weights/best.onnx" in lines
    # It ends with what `exportloss val` says of the best detector.
    assert "mAP50-95" in done.stdout
    assert lines[-1] == "written to runs/train/exp"
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
    assert "is complete, all 2 epochs" in again.stderr
    other = command("train", "--resume", folder.path, "--seed", 9, cwd=tmp_path)
    assert other.returncode == 2
    assert "--seed 9 is not what the run was started with (3)" in other.stderr


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
    assert f"{bad}:1: 4 columns" in capsys.readouterr().err
    assert main([*options, "--skip-bad"]) == 0
    printed = capsys.readouterr().out
    assert "7 images to train on" in printed
    assert f": 1\n  {bad}:1: 4 columns" in printed


def test_waiting_for_images_is_said():
    assert _waiting(0.05) == ""
    assert _waiting(0.12).startswith("waited 12% of the time for images")


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
    ("arguments", "message"),
    [
        ("", "train needs --weights and --data"),
        ("--weights ART", "train needs --weights and --data"),
        ("--weights ART --data gone.yaml", "gone.yaml: no such file"),
        ("--weights EMPTY --data DATA", "no manifest.json"),
        ("--weights gone/folder --data DATA", "gone/folder: no such file"),
        ("--weights yolov9n --data DATA", "no model 'yolov9n'; choose one of yolov5n"),
        ("--weights ART --data DATA --imgsz 128", "exported with (64, 64), which is fixed"),
        ("--weights ART --data DATA --batch-size 4", "exported with 2, which is fixed"),
        ("--weights ART --data DATA --optimizer adamw", "exported with sgd, which is fixed"),
        ("--weights ART --data DATA --freeze 10", "which is fixed"),
        ("--weights ART --data DATA --epochs 0", "epochs is 0; expected at least 1"),
        ("--weights ART --data DATA --workers 0", "workers is 0"),
        ("--weights ART --data DATA --seed -1", "seed is -1"),
        ("--weights ART --data DATA --device tpu", "device is 'tpu'"),
        ("--weights ART --data DATA --hyp HYP", "has box 0.1: the artifacts in"),
        ("--weights ART --data OTHER", "class 0 is 'circles' in the data set and 'circle'"),
        ("--weights ART --data NOVAL", "no image found"),
        ("--resume EMPTY", "is no training run: opt.yaml is not readable"),
    ],
)
def test_what_is_wrong_is_said_before_a_folder_is_made(words, tmp_path, capsys, arguments, message):
    before = set(tmp_path.iterdir())
    assert main(["train", *(words.get(word, word) for word in arguments.split())]) == 2
    assert message in capsys.readouterr().err
    assert set(tmp_path.iterdir()) == before
