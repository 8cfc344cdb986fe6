"""Data sets in COCO's format: values, what is skipped, and what is refused by name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exportloss.cli.data_report import print_split
from exportloss.errors import DataError
from exportloss.runtime.data.coco import file as coco_file
from exportloss.runtime.data.coco import json_entries
from exportloss.runtime.data.coco.file import read_coco
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.dataset_check import check_dataset
from exportloss.runtime.data.labels import read_labels
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.data.summary import summarize
from tests.support.coco_files import write_json

WIDTH, HEIGHT = 100, 60
IMAGE = {"id": 5, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
BOX = {"id": 1, "image_id": 5, "category_id": 7, "bbox": [10, 6, 20, 30], "iscrowd": 0}
CATEGORIES = [{"id": 90, "name": "dog"}, {"id": 7, "name": "cat"}]


def write(folder: Path, *, yaml: str = "", **lists: Any) -> Path:
    """Write `data.yaml`, its COCO file, and the images that lack one; return the yaml."""
    content = {"images": [IMAGE], "annotations": [BOX], "categories": CATEGORIES, **lists}
    write_json(folder / "annotations" / "instances_train.json", content)
    for image in content["images"]:
        path = folder / "images" / "train" / str(image["file_name"])
        if not path.exists() and ".." not in path.parts:
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    path = folder / "data.yaml"
    path.write_text(f"train: annotations/instances_train.json\n{yaml}")
    return path


def rows(path: Path, **options: Any) -> list[list[float]]:
    checked = check_dataset(Dataset.open(read_data_yaml(path), "train"), **options)
    return [row.tolist() for row in checked.labels]


def test_boxes_in_pixels_become_fractions_and_ids_with_gaps_classes(tmp_path):
    other = {**BOX, "id": 2, "category_id": 90, "bbox": [0, 0, 100, 15]}
    path = write(tmp_path, annotations=[BOX, other])
    config = read_data_yaml(path)
    assert config.names == ("cat", "dog")
    dataset = Dataset.open(config, "train")
    assert dataset.images == (tmp_path / "images/train/a.png",)
    assert dataset.coco is not None
    assert dataset.coco.category_ids == (7, 90)
    expected = np.array([[0, 0.2, 0.35, 0.2, 0.5], [1, 0.5, 0.125, 1, 0.25]], np.float32)
    np.testing.assert_array_equal(check_dataset(dataset).labels[0], expected)


def test_rows_are_those_of_a_label_file_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    annotations, lines = [], []
    for number in range(300):
        width, height = rng.uniform(0.01, (WIDTH / 2, HEIGHT / 2)).tolist()
        x, y = rng.uniform(0, (WIDTH - width, HEIGHT - height)).tolist()
        annotations.append({**BOX, "id": number, "bbox": [x, y, width, height]})
        values = (x + width / 2) / WIDTH, (y + height / 2) / HEIGHT, width / WIDTH, height / HEIGHT
        lines.append(f"0 {' '.join(map(repr, values))}\n")
    label = tmp_path / "a.txt"
    label.write_text("".join(lines))
    path = write(tmp_path, annotations=annotations)
    checked = check_dataset(Dataset.open(read_data_yaml(path), "train"))
    np.testing.assert_array_equal(checked.labels[0], read_labels(label, 2))


def test_names_of_the_yaml_decide_the_order(tmp_path):
    path = write(tmp_path, yaml="names: [dog, cat]\n")
    dataset = Dataset.open(read_data_yaml(path), "train")
    assert dataset.coco is not None
    assert dataset.coco.category_ids == (90, 7)
    assert rows(path)[0][0][0] == 1


@pytest.mark.parametrize(
    ("yaml", "match"),
    [("names: [cat]\n", "'dog'"), ("names: [cat, dog, cow]\n", "'cow'"), ("nc: 3\n", "3.* 2")],
)
def test_names_that_disagree_are_refused_by_name(tmp_path, yaml, match):
    path = write(tmp_path, yaml=yaml)
    with pytest.raises(DataError, match=match):
        Dataset.open(read_data_yaml(path), "train")


def test_a_single_class_takes_all_boxes(tmp_path):
    path = write(tmp_path, annotations=[BOX, {**BOX, "id": 2, "category_id": 90, "bbox": [1] * 4}])
    dataset = Dataset.open(read_data_yaml(path, single_class=True), "train")
    assert dataset.names == ("item",)
    assert check_dataset(dataset).labels[0][:, 0].tolist() == [0, 0]


def test_boxes_over_the_edge_are_clipped(tmp_path):
    over = [[-10, -6, 30, 12], [90, 54, 40, 40], [-1, -1, 500, 500]]
    boxes = [{**BOX, "id": index, "bbox": box} for index, box in enumerate(over)]
    expected = [[0, 0.1, 0.05, 0.2, 0.1], [0, 0.95, 0.95, 0.1, 0.1], [0, 0.5, 0.5, 1, 1]]
    np.testing.assert_array_equal(rows(write(tmp_path, annotations=boxes))[0], np.float32(expected))


def test_crowds_boxes_without_an_area_and_strays_are_counted_and_said(tmp_path, capsys):
    images = [IMAGE, {"id": 6, "file_name": "b.png"}]
    annotations = [
        BOX,
        {**BOX, "id": None},  # twice: counts once, as a line of a label file does
        {**BOX, "id": 2, "iscrowd": 1, "segmentation": {"counts": [1, 2], "size": [1, 3]}},
        {**BOX, "id": 3, "bbox": [3, 3, 0, 4]},
        {**BOX, "id": 4, "image_id": 77},
        {**BOX, "id": 5, "image_id": 77, "iscrowd": 1},
        {**BOX, "id": 6, "image_id": 77, "bbox": "bad"},
    ]
    path = write(tmp_path, images=images, annotations=annotations)
    batches = Batches(Dataset.open(read_data_yaml(path), "train"), 1, (32, 32))
    assert [len(found) for found in batches.labels] == [1, 0]
    summary = summarize(batches)
    assert (summary.crowds, summary.no_area, summary.strays) == (1, 1, 3)
    assert (summary.images, summary.objects, summary.empty, summary.without_file) == (2, 1, 1, 0)
    print_split("train", batches)
    said = capsys.readouterr().out
    for part in ("2 images", "1 objects", "1 without a box"):
        assert part in said
    assert re.search(r"\b1 .*iscrowd.*\b1 .*area", said)
    assert "3 annotations" in said


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bbox": [1, 2, 3]}, r"\[1, 2, 3\]"),
        ({"bbox": None}, "None"),
        ({"bbox": [1, 2, 3, True]}, "True"),
        ({"bbox": [1, 2, 3, "4"]}, "'4'"),
        ({"bbox": [1, 2, -3, 4]}, "-3"),
        ({"bbox": [1, 2, 3, 10**400]}, "1000000"),
        ({"bbox": [1e308, 2, 1e308, 4]}, "1e[+]308"),
        ({"bbox": [200, 2, 3, 4]}, "outside"),
        ({"bbox": [1, -9, 3, 4]}, "outside"),
        ({"category_id": 8}, "8"),
        ({"category_id": "cat"}, "'cat'"),
        ({"category_id": None}, "None"),
        ({"iscrowd": "no"}, "'no'"),
    ],
)
def test_a_bad_annotation_is_named_or_its_image_skipped(tmp_path, change, match):
    images = [IMAGE, {"id": 6, "file_name": "b.png"}]
    good = {**BOX, "id": 9, "image_id": 6}
    path = write(tmp_path, images=images, annotations=[good, {**BOX, **change}])
    with pytest.raises(DataError, match=match) as caught:
        rows(path)
    assert "instances_train.json: annotations[1]" in str(caught.value)
    assert len(rows(path, on_bad="skip")) == 1


@pytest.mark.parametrize(
    ("lists", "match"),
    [
        ({"images": [{**IMAGE, "file_name": "../a.png"}]}, r"images\[0\] \(id 5\).*'../a.png'"),
        ({"images": [{**IMAGE, "file_name": "b/../../a.png"}]}, "leads out"),
        ({"images": [{**IMAGE, "file_name": "..\\a.png"}]}, "leads out"),
        ({"images": [{**IMAGE, "file_name": "/etc/a.png"}]}, "'/etc/a.png'.*absolute"),
        ({"images": [{**IMAGE, "file_name": "C:\\a.png"}]}, "absolute"),
        ({"images": [{**IMAGE, "file_name": "a.txt"}]}, "'a.txt'"),
        ({"images": [IMAGE, {**IMAGE, "file_name": "b.png"}]}, r"images\[1\] \(id 5\).* twice"),
        ({"images": [IMAGE, {**IMAGE, "id": 6}]}, r"images\[1\] \(id 6\).*'a.png'.*twice"),
        ({"images": [IMAGE, {**IMAGE, "id": 6, "file_name": "./a.png"}]}, "twice"),
        ({"images": [{**IMAGE, "id": "5"}]}, "'5'"),
        ({"images": [{**IMAGE, "id": True}]}, "True"),
        ({"images": [{**IMAGE, "id": 2**63}]}, str(2**63)),
        ({"images": [{**IMAGE, "width": -1}]}, "-1"),
        ({"images": []}, "0 images.*2 categories"),
        ({"categories": []}, "1 images.*0 categories"),
        ({"categories": [*CATEGORIES, {"id": 7, "name": "cow"}]}, r"categories\[2\]: id 7"),
        ({"categories": [*CATEGORIES, {"id": 8, "name": "cat"}]}, "7.*8.*'cat'"),
        ({"categories": [{"id": 7, "name": "a\x1b[2J"}]}, r"a\\x1b"),
        ({"categories": [{"id": 7, "name": 3}]}, r"`name`.*\b3\b"),
        ({"annotations": [BOX, BOX]}, r"annotations\[1\]: id 1 .*twice"),
        ({"annotations": [{**BOX, "image_id": None}]}, r"annotations\[0\] \(id 1\).*None"),
        ({"annotations": [[BOX]]}, r"annotations\[0\].*object"),
        ({"annotations": {"1": BOX}}, "`annotations`.*list"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_line(tmp_path, lists, match):
    (tmp_path / "images" / "train").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / "train" / name)
    path = tmp_path / "data.yaml"
    source = write_json(
        tmp_path / "annotations" / "instances_train.json",
        {"images": [IMAGE], "annotations": [BOX], "categories": CATEGORIES, **lists},
    )
    path.write_text("train: annotations/instances_train.json\n")
    with pytest.raises(DataError, match=match) as caught:
        rows(path)
    assert str(source) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "''"),
        (b"[]", r"'\[\]'"),
        (b'{"images": [NaN]}', r"images\[0\]: .*NaN"),
        (b'{"info": -Infinity}', "info.*-Infinity"),
        (b'{"images": [' + b"1" * 5000 + b"]}", r"images\[0\]"),
        (b'{"annotations": [' + b"[" * 200_000, r"annotations\[0\]: .*recursion"),
        (b'{"info": ' + b'{"a":' * 200_000, "info: .*recursion"),
        (b'{"images": [], "images": []}', "`images`.*twice"),
        (b'{"images": [{"id": 1', r"images\[0\]"),
        (b'{"images": []} {}', r"'\{\}'"),
        (b'{"images": [\n{"file_name": "\xff"}]}', r"json:2: .*images\[0\]: 'utf-8'"),
        (b'{"images": [{"id": 1, "file_name": "\\ud800.png"}]}', r"images\[0\].*ud800"),
        (b'{"images": [{"id": 1, "file_name": "a\\u0000.png"}]}', r"images\[0\].*x00"),
        (b'{"images": [{"id": 1, "file_name": "' + b"a/" * 5000 + b'b.png"}]}', r"images\[0\]"),
    ],
)
def test_hostile_files_are_refused_by_name(tmp_path, content, match):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        read_coco(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_limits_hold(tmp_path, monkeypatch):
    path = write(tmp_path, annotations=[{**BOX, "id": None}] * 4)
    source = tmp_path / "annotations" / "instances_train.json"
    for module, name, limit, match in (
        (json_entries, "MAX_JSON_BYTES", 100, f"{source.stat().st_size} bytes"),
        (json_entries, "_WINDOWS", (8, 16), "16"),
        (coco_file, "MAX_ANNOTATIONS", 3, "3 annotations"),
        (coco_file, "MAX_IMAGES", 0, "0 images"),
        (coco_file, "MAX_CLASSES", 1, "1 categories"),
        (coco_file, "MAX_LABEL_LINES", 3, "id 5.*4 boxes"),
    ):
        coco_file.forget()
        with monkeypatch.context() as patch, pytest.raises(DataError, match=match) as caught:
            patch.setattr(module, name, limit)
            rows(path)
        assert str(source) in str(caught.value)


def test_links_out_of_the_folder_of_the_images_are_refused(tmp_path):
    path = write(tmp_path)
    image = tmp_path / "images" / "train" / "a.png"
    outside = image.rename(tmp_path / "outside.png")
    image.symlink_to(outside)
    with pytest.raises(DataError, match=r"id 5: 'a\.png'.*link"):
        rows(path)
    image.unlink()
    outside.rename(image.with_name("b.png"))
    image.symlink_to("b.png")  # within
    assert len(rows(path)) == 1
    folder = image.parent.rename(tmp_path / "moved")
    image.parent.symlink_to(folder)  # the folder itself is the user's choice
    assert len(rows(path)) == 1


def test_a_linked_subfolder_that_leads_out_is_refused(tmp_path):
    path = write(tmp_path, images=[{**IMAGE, "file_name": "sub/a.png"}])
    folder = tmp_path / "images" / "train" / "sub"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"'sub/a\.png'.*link"):
        rows(path)


def test_an_image_of_another_size_than_the_file_says_is_named(tmp_path):
    path = write(tmp_path, images=[{**IMAGE, "width": HEIGHT, "height": WIDTH}])
    with pytest.raises(DataError, match=r"id 5 .*\(100, 60\).*\(60, 100\)"):
        rows(path)


def test_a_missing_image_is_named_or_skipped(tmp_path):
    path = write(tmp_path, images=[{"id": 6, "file_name": "b.png"}, IMAGE])
    (tmp_path / "images" / "train" / "a.png").unlink()
    with pytest.raises(DataError, match=r"a\.png: no such"):
        rows(path)
    assert rows(path, on_bad="skip") == [[]]


@pytest.mark.parametrize("place", ["annotations", "images/train", "train", "images", "."])
def test_the_images_are_found_where_tools_put_them(tmp_path, place):
    path = write(tmp_path)
    image = tmp_path / "images" / "train" / "a.png"
    moved = tmp_path / place / "a.png"
    moved.parent.mkdir(exist_ok=True)
    os.replace(image, moved)  # noqa: PTH105 - onto itself too
    assert Dataset.open(read_data_yaml(path), "train").images == (moved,)


def test_the_yaml_can_name_the_folder_of_the_images(tmp_path):
    path = write(tmp_path, yaml="train_images: photos\n")
    with pytest.raises(DataError, match=r"photos/a\.png: no such"):
        rows(path)
    (tmp_path / "images" / "train").rename(tmp_path / "photos")
    assert len(rows(path)) == 1
    path.write_text("train: annotations/instances_train.json\n")
    with pytest.raises(DataError, match=r"'a\.png'.*`train_images:`"):
        rows(path)


@pytest.mark.parametrize(
    ("yaml", "match"),
    [
        ("train: [annotations/instances_train.json, images]\n", r"`train`.*COCO.*\b1\b"),
        ("train: gone.json\n", r"gone\.json"),
        ("train: gone.json\nnames: [a]\n", r"gone\.json"),
        (
            "train: annotations/instances_train.json\ntrain_images: 3\n",
            r"yaml:2: .*`train_images`.*\b3\b",
        ),
        ("path: a.json\nnames: [a]\n", r"yaml:1: .*`path`.*'a\.json'"),
    ],
)
def test_what_is_wrong_with_the_yaml_is_said(tmp_path, yaml, match):
    path = write(tmp_path)
    path.write_text(yaml)
    with pytest.raises(DataError, match=match):
        Dataset.open(read_data_yaml(path), "train")
    with pytest.raises(DataError, match=r"train: a\.json"):
        read_data_yaml(tmp_path / "a.json")


def test_a_file_that_was_changed_is_read_again(tmp_path):
    path = write(tmp_path)
    assert len(rows(path)[0]) == 1
    write(tmp_path, annotations=[])
    assert rows(path) == [[]]


def test_long_and_foreign_names_are_read(tmp_path):
    name = "é" * 50 + ".png"
    images = [{**IMAGE, "file_name": name, "note": "ü" * 5000}]
    path = write(tmp_path, images=images)
    source = tmp_path / "annotations" / "instances_train.json"
    value = json.loads(source.read_text())
    source.write_text("\ufeff" + json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
    assert len(rows(path)[0]) == 1
