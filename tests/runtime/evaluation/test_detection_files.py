import json

import numpy as np
import pytest
from PIL import Image

from exportloss.runtime.data.labels import read_labels
from exportloss.runtime.evaluation.detection_files import (
    coco_results,
    crop,
    write_image,
    write_json,
    write_labels,
)

BOXES = np.array([[10, 20, 30, 60, 0.875, 1], [0, 0, 100, 80, 0.25, 0]], np.float32)


def test_label_files_are_what_the_reader_takes(tmp_path):
    path = tmp_path / "labels" / "a.txt"
    write_labels(path, BOXES, (80, 100))
    expected = [[1, 0.2, 0.5, 0.2, 0.5], [0, 0.5, 0.5, 1, 1]]
    np.testing.assert_allclose(read_labels(path, 2), expected, atol=1e-6)
    write_labels(path, BOXES, (80, 100), with_confidence=True)
    assert path.read_text().splitlines()[0] == "1 0.200000 0.500000 0.200000 0.500000 0.875000"


def test_boxes_too_thin_to_be_written_are_left_out(tmp_path):
    thin = np.array([[10, 20, 30, 20, 0.9, 0], [5, 5, 5.00004, 9, 0.8, 1]], np.float32)
    write_labels(tmp_path / "a.txt", np.concatenate([thin, BOXES]), (80, 100))
    assert read_labels(tmp_path / "a.txt", 2)[:, 0].tolist() == [1, 0]


def test_coco_results_carry_the_ids_of_a_coco_file():
    own = coco_results(BOXES, 7)
    ids = tuple(range(90, 190))
    renamed = coco_results(BOXES, 7, ids)
    assert [entry["category_id"] for entry in renamed] == [
        ids[entry["category_id"]] for entry in own
    ]
    assert [entry["bbox"] for entry in renamed] == [entry["bbox"] for entry in own]


def test_coco_results(tmp_path):
    results = coco_results(BOXES, 7) + coco_results(BOXES[:1], "ä")
    first = {"image_id": 7, "category_id": 1, "bbox": [10, 20, 20, 40], "score": 0.875}
    assert results[0] == first
    write_json(tmp_path / "r.json", results)
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == results
    write_json(tmp_path / "r.json", [])
    assert json.loads((tmp_path / "r.json").read_text()) == []


def test_crops_have_a_margin_and_end_at_the_border():
    image = np.arange(80 * 100 * 3, dtype=np.uint32).reshape(80, 100, 3).astype(np.uint8)
    np.testing.assert_array_equal(crop(image, BOXES[0]), image[14:66, 4:36])
    np.testing.assert_array_equal(crop(image, BOXES[1]), image)
    corner = crop(image, np.array([100, 80, 100, 80, 0.5, 0]))
    assert corner.size > 0


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".png", ".bmp", ".tif", ".webp"])
def test_images_in_every_format(tmp_path, suffix):
    image = np.full((20, 30, 3), (200, 100, 50), np.uint8)
    write_image(tmp_path / f"a{suffix}", image)
    with Image.open(tmp_path / f"a{suffix}") as written:
        np.testing.assert_allclose(np.asarray(written.convert("RGB")), image, atol=4)
