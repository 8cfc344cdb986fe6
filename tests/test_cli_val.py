import contextlib
import io
import json
import sys

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from exportloss.cli import main
from exportloss.runtime.dataset import Dataset, read_data_yaml
from exportloss.runtime.images import load_image
from exportloss.runtime.labels import read_labels
from tests.bright_detector import make_spots, write_bright_detector
from tests.test_cli_train import command

NAMES = {0: "green", 1: "blue"}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_spots(tmp_path / "spots")


@pytest.fixture
def weights(tmp_path):
    return write_bright_detector(tmp_path / "best.onnx", names=NAMES, stride="32")


def rows(text):
    """The printed table: name -> numbers."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["Class", "Images"])
    assert lines[start].split()[2:] == ["Instances", "P", "R", "mAP50", "mAP50-95"]
    table = {}
    for line in lines[start + 1 :]:
        name, *cells = line.split()
        if len(cells) != 6 or name == "loss:":
            break
        table[name] = [float(cell) for cell in cells]
    return table


def coco_metrics(data, results):
    """mAP50-95 and mAP50 of pycocotools for a results file, from the label files."""
    dataset = Dataset.open(read_data_yaml(data), "val")
    annotations = []
    for image, labels in zip(dataset.images, dataset.labels, strict=True):
        height, width = load_image(image).shape[:2]
        for label, x, y, w, h in read_labels(labels, dataset.num_classes).tolist():
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": int(image.stem), "bbox": box}
                | {"category_id": int(label), "area": box[2] * box[3], "iscrowd": 0}
            )
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": int(image.stem)} for image in dataset.images],
            "categories": [{"id": label} for label in range(dataset.num_classes)],
            "annotations": annotations,
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.params.maxDets = [1, 10, 300]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0, -1]
    return precision.mean(), precision[0].mean()


def test_where_there_is_neither_torch_nor_onnx_the_table_has_pycocotools_numbers(
    data, weights, tmp_path
):
    options = ("--imgsz", 64, "--batch-size", 4, "--threads", 1, "--save-json", "--save-txt")
    done = command("val", "--weights", weights, "--data", data, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "val" / "exp"
    assert done.stdout.splitlines()[-1] == "written to runs/val/exp"
    table = rows(done.stdout)
    assert list(table) == ["all", "green", "blue"]
    ap, ap50 = coco_metrics(data, folder / "best_predictions.json")
    assert 0.1 < ap < ap50 < 0.9
    assert table["all"][:2] == [6, 18]
    assert table["all"][4:] == pytest.approx([ap50, ap], rel=2e-3)  # three digits are printed
    # Nothing is missed but what has a label of the other class.
    assert 0.4 < table["all"][3] < 0.9
    assert {path.name for path in folder.iterdir()} == {
        *("best_predictions.json", "labels", "confusion_matrix.png"),
        *(f"{name}_curve.png" for name in ("PR", "F1", "P", "R")),
        *(f"val_batch{n}_{kind}.jpg" for n in range(2) for kind in ("labels", "pred")),
    }
    found = read_labels(folder / "labels" / "001.txt", 2)
    assert len(found) == 4
    np.testing.assert_allclose(found[:, 3:], 1 / 8, atol=1e-6)


def test_a_run_folder_stands_for_its_best_detector(data, weights, tmp_path, capsys):
    (tmp_path / "run" / "weights").mkdir(parents=True)
    weights.rename(tmp_path / "run" / "weights" / "best.onnx")
    arguments = ["--data", str(data), "--imgsz", "64", "--name", "x", "--exist-ok"]
    assert main(["val", "--weights", "run", *arguments]) == 0
    assert list(rows(capsys.readouterr().out)) == ["all", "green", "blue"]
    assert main(["val", "--weights", "run", *arguments]) == 0
    assert [path.name for path in (tmp_path / "runs" / "val").iterdir()] == ["x"]


def test_without_matplotlib_it_says_what_to_install(data, weights, tmp_path, capsys, monkeypatch):
    find_spec = sys.modules["importlib.util"].find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )
    assert main(["val", "--weights", str(weights), "--data", str(data), "--imgsz", "64"]) == 0
    assert "no plots: matplotlib is not installed; pip install matplotlib" in (
        capsys.readouterr().out
    )
    written = {path.suffix for path in (tmp_path / "runs" / "val" / "exp").iterdir()}
    assert written == {".jpg"}


def test_artifacts_give_the_loss_too(step_artifact, shapes, tmp_path):
    options = ("--weights", step_artifact, "--data", shapes, "--threads", 1)
    done = command("val", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert rows(done.stdout)["all"][0] == 3
    assert "loss: box 0." in done.stdout


def test_names_that_differ_are_noted(data, tmp_path, capsys):
    weights = write_bright_detector(tmp_path / "other.onnx", names={0: "green", 1: "red"})
    assert main(["val", "--weights", str(weights), "--data", str(data), "--imgsz", "64"]) == 0
    note = "note: class 1 is 'red' in the detector, 'blue' in the data set"
    assert note in capsys.readouterr().out


def test_a_split_without_objects_is_said_to_be(data, weights, tmp_path, capsys):
    for path in (tmp_path / "spots" / "labels" / "val").iterdir():
        path.write_text("")
    assert main(["val", "--weights", str(weights), "--data", str(data), "--imgsz", "64"]) == 0
    out = capsys.readouterr().out
    assert "the labels have no object" in out
    assert rows(out) == {"all": [6, 0, 0, 0, 0, 0]}


def test_predictions_carry_the_files_own_name_where_it_is_no_number(data, weights, tmp_path):
    images = tmp_path / "spots" / "images" / "val"
    (images / "000.png").rename(images / "first.png")
    arguments = ["--weights", str(weights), "--data", str(data), "--imgsz", "64", "--save-json"]
    assert main(["val", *arguments]) == 0
    results = json.loads((tmp_path / "runs/val/exp/best_predictions.json").read_text())
    assert {entry["image_id"] for entry in results} == {1, 2, 3, 4, 5, "first"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--weights gone.onnx --data DATA", "gone.onnx: no such file"),
        ("--weights EMPTY --data DATA", "is neither a finished run"),
        ("--weights DATA --data DATA", "does not end in .onnx"),
        ("--weights ONNX --data gone.yaml", "gone.yaml: no such file"),
        ("--weights ONNX --data DATA --task train", "no `train:`"),
        ("--weights ONNX --data DATA --imgsz 100", "such as (128, 128)"),
        ("--weights ONNX --data DATA --imgsz 64 64 64", "--imgsz got 3 numbers"),
        ("--weights ONNX --data DATA --batch-size 0", "batch size is 0"),
        ("--weights ONNX --data DATA --conf-thres 2", "conf_thres is 2.0"),
        ("--weights ONNX --data DATA --max-det 0", "max_det is 0"),
        ("--weights ONNX --data DATA --device tpu", "device is 'tpu'"),
        ("--weights ONNX --data DATA --threads 0", "threads is 0"),
        ("--weights ONNX --data THREE", "the detector has 2 classes, the data set 3"),
    ],
)
def test_what_is_wrong_is_said_before_a_folder_is_made(data, weights, capsys, arguments, message):
    tmp_path = weights.parent
    (tmp_path / "empty").mkdir()
    three = tmp_path / "three.yaml"
    three.write_text(data.read_text().replace("path: .", "path: spots").replace("[", "[red, "))
    words = {"ONNX": weights, "DATA": data, "EMPTY": "empty", "THREE": three}
    assert main(["val", *(str(words.get(word, word)) for word in arguments.split())]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
