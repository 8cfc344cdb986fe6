import json

import numpy as np
import pytest
from PIL import Image

from exportloss.cli import main
from exportloss.runtime.data.labels import read_labels
from exportloss.runtime.drawing.draw import class_color
from exportloss.runtime.images.load import load_image
from tests.support.bright_detector import spot_image, write_bright_detector
from tests.support.device_command import command
from tests.support.messages import error_of, missing

ESCAPING = {0: "../up", 1: "dog"}


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    folder.mkdir()
    two = spot_image(128, 128, (0, 16, 32, 32, 48), (1, 64, 64, 80, 80))
    Image.fromarray(two).save(folder / "two.png")
    Image.fromarray(spot_image(64, 64)).save(folder / "none.png")
    return folder


@pytest.fixture
def weights(tmp_path):
    return write_bright_detector(tmp_path / "best.onnx", names=ESCAPING, shape=("n", 3, 64, 64))


def test_where_there_is_neither_torch_nor_onnx_everything_is_written(photos, weights, tmp_path):
    saving = ("--save-txt", "--save-conf", "--save-crop", "--save-json", "--line-thickness", 1)
    arguments = ("--weights", weights, "--source", photos, "--threads", 1, "--hide-labels")
    done = command("detect", *arguments, *saving, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, second, last = done.stdout.splitlines()
    assert first.startswith(f"image 1/2 {photos}/none.png: 64x64 (no detections), ")
    assert second.startswith(f"image 2/2 {photos}/two.png: 128x128 1 ../up, 1 dog, ")
    assert last.endswith(" runs/detect/exp")
    folder = tmp_path / "runs" / "detect" / "exp"
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert written == {
        *("two.png", "none.png", "labels/two.txt", "detections.json"),
        *("crops/___up/two-1.jpg", "crops/dog/two-2.jpg"),
    }
    drawn = load_image(folder / "two.png")
    for label, (x, y) in enumerate(((16, 40), (64, 72))):
        assert tuple(drawn[y, x]) == class_color(label)
    np.testing.assert_array_equal(load_image(folder / "none.png"), 0)
    rows = [line.split() for line in (folder / "labels" / "two.txt").read_text().splitlines()]
    expected = [[0, 0.1875, 0.3125, 0.125, 0.125], [1, 0.5625, 0.5625, 0.125, 0.125]]
    np.testing.assert_allclose([list(map(float, row[:5])) for row in rows], expected, atol=1e-6)
    none, two = json.loads((folder / "detections.json").read_text())
    assert none == {"image": f"{photos}/none.png", "height": 64, "width": 64, "detections": []}
    assert [one["name"] for one in two["detections"]] == ["../up", "dog"]
    assert two["detections"][0]["box"] == [16, 32, 32, 48]
    assert float(rows[0][5]) == pytest.approx(two["detections"][0]["confidence"], abs=1e-5)


def test_nothing_is_saved_where_nothing_is_asked_for(photos, weights, tmp_path, capsys):
    arguments = ["--weights", str(weights), "--source", "photos/t*.png", "--nosave"]
    assert main(["detect", *arguments, "--classes", "1"]) == 0
    assert ": 128x128 1 dog, " in capsys.readouterr().out
    assert main(["detect", *arguments, "--conf-thres", "0.99"]) == 0
    assert "(no detections)" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_artifacts_detect(step_artifact, photos, tmp_path):
    arguments = ("--weights", step_artifact, "--source", photos, "--threads", 1, "--nosave")
    done = command("detect", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_a_damaged_image_is_named_and_passed_over(photos, weights, tmp_path, capsys):
    (photos / "bad.png").write_bytes((photos / "two.png").read_bytes()[:60])
    arguments = ["--weights", str(weights), "--source", str(photos), "--save-txt", "--hide-conf"]
    assert main(["detect", *arguments]) == 1
    errors = capsys.readouterr().err
    first, *_ = errors.splitlines()
    assert first.startswith(f"image 1/3 {photos}/bad.png: ")
    assert not missing(errors.splitlines()[-1], 1, 3)
    folder = tmp_path / "runs" / "detect" / "exp"
    assert len(read_labels(folder / "labels" / "two.txt", 2)) == 2
    assert sorted(path.name for path in folder.glob("*.png")) == ["none.png", "two.png"]


def test_images_of_the_same_name_do_not_replace_each_other(photos, weights, tmp_path):
    (photos / "more").mkdir()
    (photos / "two.png").rename(photos / "more" / "none.png")
    assert main(["detect", "--weights", str(weights), "--source", f"{photos}/**/*"]) == 0
    folder = tmp_path / "runs" / "detect" / "exp"
    assert sorted(path.name for path in folder.iterdir()) == ["none-2.png", "none.png"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("--weights gone.onnx --source photos", ("gone.onnx: ", "no such file")),
        ("--weights ONNX --source gone", ("gone: ", "no such file")),
        ("--weights ONNX --source photos --imgsz 96", ((64, 64),)),
        ("--weights ONNX --source photos --iou-thres -1", ("iou_thres", -1.0)),
        ("--weights ONNX --source photos --line-thickness 0", ("line-thickness", 0)),
    ],
)
@pytest.mark.usefixtures("photos")
def test_what_is_wrong_is_said_before_a_folder_is_made(weights, capsys, arguments, told):
    words = {"ONNX": str(weights)}
    assert main(["detect", *(words.get(word, word) for word in arguments.split())]) == 2
    assert not missing(error_of(capsys.readouterr().err), *told)
    assert not (weights.parent / "runs").exists()


@pytest.mark.parametrize(
    ("names", "given", "told"),
    [(ESCAPING, "2", "[0, 1]"), (None, "99", "[0, 1]"), (ESCAPING, "-1", "-1")],
)
def test_classes_that_are_none_are_refused(photos, capsys, names, given, told):
    path = write_bright_detector(photos / "two.onnx", names=names, shape=("n", 3, 64, 64))
    arguments = ["--weights", str(path), "--source", str(photos), "--nosave", "--threads", "1"]
    assert main(["detect", *arguments, "--classes", "0", given]) == 2
    error = capsys.readouterr().err
    assert given in error
    assert told in error
