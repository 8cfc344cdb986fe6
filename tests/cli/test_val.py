import importlib.util
import json

import numpy as np
import pytest

from exportloss.cli import main
from exportloss.runtime.data.labels import read_labels
from tests.support.bright_detector import make_spots, write_bright_detector
from tests.support.coco_numbers import coco_map
from tests.support.device_command import command
from tests.support.messages import error_of, missing

NAMES = {0: "green", 1: "blue"}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data set; matplotlib is missing in this process, since plots take long."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )
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


def test_where_there_is_neither_torch_nor_onnx_the_table_has_pycocotools_numbers(
    data, weights, tmp_path
):
    options = ("--imgsz", 64, "--batch-size", 4, "--threads", 1, "--save-json", "--save-txt")
    done = command("val", "--weights", weights, "--data", data, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "val" / "exp"
    assert done.stdout.splitlines()[-1].endswith(" runs/val/exp")
    table = rows(done.stdout)
    assert list(table) == ["all", "green", "blue"]
    ap50, ap = coco_map(data, folder / "best_predictions.json")
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


def test_without_matplotlib_it_says_what_to_install(data, weights, tmp_path, capsys):
    assert main(["val", "--weights", str(weights), "--data", str(data), "--imgsz", "64"]) == 0
    assert "pip install matplotlib" in capsys.readouterr().out
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
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert any(not missing(note, 1, "'red'", "'blue'") for note in notes)


def test_a_split_without_objects_is_said_to_be(data, weights, tmp_path, capsys):
    for path in (tmp_path / "spots" / "labels" / "val").iterdir():
        path.write_text("")
    assert main(["val", "--weights", str(weights), "--data", str(data), "--imgsz", "64"]) == 0
    out = capsys.readouterr().out
    assert any(not missing(line, "no object", "val") for line in out.splitlines())
    assert rows(out) == {"all": [6, 0, 0, 0, 0, 0]}


def test_predictions_carry_the_files_own_name_where_it_is_no_number(data, weights, tmp_path):
    images = tmp_path / "spots" / "images" / "val"
    (images / "000.png").rename(images / "first.png")
    arguments = ["--weights", str(weights), "--data", str(data), "--imgsz", "64", "--save-json"]
    assert main(["val", *arguments]) == 0
    results = json.loads((tmp_path / "runs/val/exp/best_predictions.json").read_text())
    assert {entry["image_id"] for entry in results} == {1, 2, 3, 4, 5, "first"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--weights gone.onnx --data DATA", ("gone.onnx: ", "no such file")),
        ("--weights EMPTY --data DATA", ("empty", "run")),
        ("--weights DATA --data DATA", ("data.yaml", ".onnx", ".pt")),
        ("--weights ONNX --data gone.yaml", ("gone.yaml: ", "no such file")),
        ("--weights ONNX --data DATA --task train", ("data.yaml", "`train:`")),
        ("--weights ONNX --data DATA --imgsz 0", ("imgsz", 0)),
        ("--weights ONNX --data DATA --imgsz 64 64 64", ("imgsz", 3)),
        ("--weights ONNX --data DATA --batch-size 0", ("batch_size", 0, 1)),
        ("--weights ONNX --data DATA --conf-thres 2", ("conf_thres", 2.0)),
        ("--weights ONNX --data DATA --max-det 0", ("max_det", 0)),
        ("--weights ONNX --data DATA --device tpu", ("device", "'tpu'")),
        ("--weights ONNX --data DATA --threads 0", ("threads", 0)),
        ("--weights ONNX --data THREE", ("classes", 2, 3)),
    ],
)
def test_what_is_wrong_is_said_before_a_folder_is_made(data, weights, capsys, arguments, told):
    tmp_path = weights.parent
    (tmp_path / "empty").mkdir()
    three = tmp_path / "three.yaml"
    three.write_text(data.read_text().replace("path: .", "path: spots").replace("[", "[red, "))
    words = {"ONNX": weights, "DATA": data, "EMPTY": "empty", "THREE": three}
    assert main(["val", *(str(words.get(word, word)) for word in arguments.split())]) == 2
    assert not missing(error_of(capsys.readouterr().err), *told)
    assert not (tmp_path / "runs").exists()
