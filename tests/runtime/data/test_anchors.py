import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from exportloss.cli import main
from exportloss.errors import ConfigError, DataError
from exportloss.models import yolov5
from exportloss.runtime import Manifest
from exportloss.runtime.data.anchors import (
    as_anchors,
    best_possible_recall,
    box_sides,
    fit_anchors,
    improve_anchors,
    read_anchors,
)
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.loader import Batches
from tests.runtime.data.test_loader import make
from tests.support.messages import mentions
from tests.support.tiny_runs import make_tiny_shapes

# YOLOv5's own, of P3 to P5.
STOCK = as_anchors(
    [
        [[10, 13], [16, 30], [33, 23]],
        [[30, 61], [62, 45], [59, 119]],
        [[116, 90], [156, 198], [373, 326]],
    ]
)
sides = st.floats(2, 600)


def boxes_like(rng, *, count, aspect, area):
    """Boxes around an aspect ratio (width over height) and an area, pixels."""
    aspects = aspect * np.exp(rng.normal(0, 0.2, count))
    areas = area * np.exp(rng.normal(0, 0.5, count))
    return np.stack([np.sqrt(areas * aspects), np.sqrt(areas / aspects)], axis=1)


def test_recall_by_hand():
    anchors = [[[10, 10]], [[100, 20]]]
    boxes = np.array([[10, 39], [10, 41], [2.6, 10], [2.4, 10], [399, 79], [401, 20]], float)
    expected = [True, False, True, False, True, False]
    for box, fits in zip(boxes, expected, strict=True):
        assert best_possible_recall(box[None], as_anchors(anchors), 4.0) == fits
    assert best_possible_recall(boxes, as_anchors(anchors), 4.0) == 0.5
    assert np.isnan(best_possible_recall(boxes[:0], as_anchors(anchors), 4.0))


@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=8), st.floats(1.5, 8))
def test_recall_is_what_the_loss_matches(boxes, anchor_t):
    boxes = np.array(boxes)
    ratio = boxes[:, None] / np.array(STOCK).reshape(-1, 2)
    matched = (np.maximum(ratio, 1 / ratio).max(axis=2) < anchor_t).any(axis=1)
    assert best_possible_recall(boxes, STOCK, anchor_t) == pytest.approx(matched.mean())


@pytest.mark.parametrize("aspect", [40, 1 / 60])
def test_thin_boxes_get_anchors_of_their_own(aspect):
    boxes = boxes_like(np.random.default_rng(0), count=400, aspect=aspect, area=600)
    assert best_possible_recall(boxes, STOCK, 4.0) == 0
    found = fit_anchors(boxes, (3, 3))
    assert best_possible_recall(boxes, found, 4.0) > 0.99
    areas = np.array(found).prod(axis=2).ravel()
    assert (np.diff(areas) >= 0).all()
    assert fit_anchors(boxes, (3, 3)) == found
    assert fit_anchors(boxes, (3, 3), seed=1) != found


def batches_of(tmp_path, boxes):
    """One image per box, 600 px square, on a canvas of the same size."""
    dataset = make(tmp_path, len(boxes), size=(600, 600))
    for path, (width, height) in zip(dataset.labels, boxes, strict=True):
        path.write_text(f"0 0.5 0.5 {width / 600} {height / 600}\n")
    return Batches(dataset, 2, (600, 600))


def test_boxes_are_measured_on_the_canvas(tmp_path):
    dataset = make(tmp_path, 1, size=(40, 80))
    dataset.labels[0].write_text("0 0.5 0.5 0.5 0.25\n")
    np.testing.assert_allclose(box_sides(Batches(dataset, 1, (160, 160))), [[80, 20]])


def test_anchors_that_fit_are_kept(tmp_path):
    fit = improve_anchors(batches_of(tmp_path, [(30, 30), (100, 60), (300, 320)]), STOCK)
    assert fit.anchors == STOCK
    assert fit.before == fit.after == 1


def test_anchors_that_do_not_fit_are_replaced(tmp_path):
    boxes = boxes_like(np.random.default_rng(0), count=20, aspect=40, area=400)
    fit = improve_anchors(batches_of(tmp_path, boxes), STOCK)
    assert (fit.before, fit.after > 0.99) == (0, True)
    assert np.shape(fit.anchors) == np.shape(STOCK)


def test_too_few_boxes_are_refused(tmp_path):
    with pytest.raises(DataError, match=mentions("3 boxes", "9 anchors")):
        improve_anchors(batches_of(tmp_path, [(300, 3)] * 3), STOCK)


@pytest.mark.parametrize(
    "values", [[], [[1, 2]], [[[1, 2, 3]]], [[[1, 0]]], [[[1, float("nan")]]], [[[1], [2, 3]]], "a"]
)
def test_what_is_no_anchor_is_refused(values):
    with pytest.raises(ConfigError, match="anchor"):
        as_anchors(values)


@pytest.mark.parametrize(
    "rows", ["[[1, 2, 3, 4], [5, 6, 7, 8]]", "[[[1, 2], [3, 4]], [[5, 6], [7, 8]]]"]
)
def test_anchors_are_read_as_in_a_model_file(tmp_path, rows):
    path = tmp_path / "anchors.yaml"
    path.write_text(f"nc: 80\nanchors: {rows}\n")
    assert read_anchors(path) == (((1, 2), (3, 4)), ((5, 6), (7, 8)))


@pytest.mark.parametrize(
    "text", ["nc: 80", "anchors: 3", "anchors: [[1, 2, 3]]", "anchors: [[a, b]]"]
)
def test_a_bad_file_of_anchors_is_named(tmp_path, text):
    path = tmp_path / "anchors.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=mentions(path)):
        read_anchors(path)


def test_a_detector_takes_other_anchors():
    model = yolov5("yolov5n", 2)
    before = model.anchors_px.clone()
    model.set_anchors((before * 2).tolist())
    assert torch.equal(model.anchors_px, before * 2)
    for wrong in (before[:2].tolist(), before.flip(0).tolist()):
        with pytest.raises(ConfigError, match="anchors"):
            model.set_anchors(wrong)


@pytest.fixture
def thin(tmp_path):
    """A data set of thin boxes, which YOLOv5's anchors do not fit."""
    root = make_tiny_shapes(tmp_path / "thin").parent
    for number, path in enumerate(sorted(root.glob("labels/*/*.txt"))):
        lines = (f"0 .5 .{index}5 .{95 - 5 * number % 30} .02\n" for index in range(9))
        path.write_text("".join(lines))
    return root / "data.yaml"


def options(command, data, *more):
    size = ("--weights", "yolov5n", "--imgsz", 320, "--batch-size", 2, "--max-targets", 64)
    return [*map(str, (command, *size, "--data", data, *more))]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ((), (1.0, "anchors: fitted")),
        (("--noautoanchor",), (0.0, "warning: 100.0%")),
        (("--anchors", "anchors.yaml"), (0.5, "warning: 50")),
    ],
)
def test_an_export_suits_the_anchors(thin, monkeypatch, capsys, more, expected):
    recall, told = expected
    monkeypatch.chdir(tmp_path := thin.parents[1])
    rows = [[[5, 5], [6, 6], [7, 7]], [[30, 30], [31, 31], [32, 32]], [[250, 7]] * 3]
    (tmp_path / "anchors.yaml").write_text(f"anchors: {rows}\n")
    if "--anchors" in more:
        for path in thin.parent.glob("labels/train/*.txt"):
            path.write_text("0 .5 .5 .8 .02\n1 .5 .5 .02 .9\n")
    assert main(options("export", thin, "--format", "loss", *more)) == 0
    printed = capsys.readouterr().out
    assert told in printed
    manifest = Manifest.read(tmp_path / "artifacts")
    batches = Batches(Dataset.open(read_data_yaml(thin), "train"), 2, (320, 320))
    found = best_possible_recall(box_sides(batches), manifest.anchors, 4.0)
    assert found == pytest.approx(recall, abs=0.01)
    assert re.search(rf"recall.*anchors.*{found:.4f}", printed)


def test_an_inference_file_keeps_its_anchors(thin, tmp_path, capsys):
    output = ("--format", "safetensors", "--output", tmp_path / "out")
    arguments = ("export", "--weights", "yolov5n", "--data", thin, *output)
    assert main([*map(str, arguments)]) == 0
    assert "anchors" not in capsys.readouterr().out


def test_an_export_without_images_keeps_the_anchors(tmp_path, capsys):
    (tmp_path / "data.yaml").write_text("train: gone\nnames: [a]\n")
    output = ("--format", "loss", "--output", tmp_path / "out")
    assert main(options("export", tmp_path / "data.yaml", *output)) == 0
    assert "gone" in capsys.readouterr().out
    assert Manifest.read(tmp_path / "out").anchors == STOCK
