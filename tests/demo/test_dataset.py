from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from exportloss.demo import dataset as shapes
from exportloss.demo.dataset import SHAPE_NAMES, make_shapes, render
from exportloss.errors import ConfigError, DataError
from exportloss.runtime.data.dataset import Dataset, read_data_yaml
from exportloss.runtime.data.dataset_check import check_dataset

SMALL = {"train": 3, "val": 2, "size": 64}


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_makes_a_data_set_in_yolo_layout(tmp_path):
    path = make_shapes(tmp_path / "new" / "shapes", **SMALL)
    assert path == tmp_path / "new" / "shapes" / "data.yaml"
    config = read_data_yaml(path)
    assert config.names == SHAPE_NAMES
    for split, count in (("train", 3), ("val", 2)):
        dataset = Dataset.open(config, split)
        labels = check_dataset(dataset).labels
        assert len(dataset) == count
        assert all(label.is_file() for label in dataset.labels)
        assert all(1 <= len(rows) <= 6 for rows in labels)
        for image in dataset.images:
            with Image.open(image) as opened:
                assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (64, 64))
    assert len(contents(path.parent)) == 1 + 2 * 5


def test_depends_on_the_seed_alone(tmp_path):
    one = contents(make_shapes(tmp_path / "one", **SMALL).parent)
    assert one == contents(make_shapes(tmp_path / "two", **SMALL).parent)
    other = contents(make_shapes(tmp_path / "three", seed=1, **SMALL).parent)
    assert all(one[name] != other[name] for name in one if name.endswith("png"))
    images = [data for name, data in one.items() if name.endswith("png")]
    assert len(set(images)) == 5
    # More images leave the first ones as they were.
    more = contents(make_shapes(tmp_path / "more", **SMALL | {"train": 4}).parent)
    assert all(more[name] == data for name, data in one.items() if name != "data.yaml")


def test_an_identical_data_set_is_left_alone_and_an_interrupted_one_completed(tmp_path):
    root = make_shapes(tmp_path, **SMALL).parent
    before = contents(root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    make_shapes(root, **SMALL)
    assert times == {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    (root / "labels/val/00001.txt").unlink()
    (root / "images/val/00001.png").write_bytes(b"half a pict")
    make_shapes(root, **SMALL)
    assert contents(root) == before


def test_a_folder_with_something_else_is_refused_and_untouched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds thesis\.txt"):
        make_shapes(tmp_path, **SMALL)
    assert contents(tmp_path) == {"thesis.txt": b"mine"}


@pytest.mark.parametrize("change", [{"train": 4}, {"size": 32}, {"seed": 5}])
def test_a_data_set_of_other_arguments_is_refused_and_untouched(tmp_path, change):
    make_shapes(tmp_path, **SMALL)
    before = contents(tmp_path)
    with pytest.raises(DataError, match=r"data\.yaml"):
        make_shapes(tmp_path, **SMALL | change)
    assert contents(tmp_path) == before


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: the data set cannot be written"):
        make_shapes(tmp_path / "file", **SMALL)


@pytest.mark.parametrize("bad", [{"train": 0}, {"val": 0}, {"size": 31}, {"seed": -1}])
def test_refuses_arguments_out_of_range(tmp_path, bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        make_shapes(tmp_path, **SMALL | bad)


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.1, 2.5])
@pytest.mark.parametrize("kind", range(len(SHAPE_NAMES)))
def test_boxes_are_tight_around_the_drawn_shape(kind, angle):
    size, radius, centre = 160, 40.0, (70.3, 90.6)
    mask = shapes._shape_mask(kind, centre, radius, angle, size)
    x, y, width, height = np.array(shapes._tight_box(mask)) * size
    corners = {"circle": 3600, "square": 4, "triangle": 3, "star": 5}[SHAPE_NAMES[kind]]
    turns = angle + 2 * np.pi * np.arange(corners) / corners
    outline = np.array(centre)[:, None] + radius * np.stack([np.cos(turns), np.sin(turns)])
    low, high = outline.min(axis=1), outline.max(axis=1)
    # A pixel half covered counts; the point of a star or triangle is thinner than that.
    slack = {"circle": 0.75, "square": 1.5, "triangle": 2.5, "star": 4}[SHAPE_NAMES[kind]]
    found = np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    np.testing.assert_allclose(found, [*low, *high], atol=slack)


@pytest.mark.parametrize("seed", range(8))
def test_labels_lie_on_the_painted_shapes(monkeypatch, seed):
    size = 128
    monkeypatch.setattr(shapes, "_background", lambda rng, size: np.full((size, size, 3), 0.5))
    image, labels = render(np.random.default_rng(seed), size)
    assert ((labels[:, 1:] > 0) & (labels[:, 1:] < 1)).all()
    colored = np.ptp(image.astype(int), axis=2) > 40  # shadow, grain and background are grey
    covered = np.zeros_like(colored)
    for _, x, y, width, height in labels * [1, size, size, size, size]:
        rows = slice(round(y - height / 2), round(y + height / 2))
        columns = slice(round(x - width / 2), round(x + width / 2))
        assert colored[rows, columns].mean() > 0.2
        covered[rows, columns] = True
    # Whatever is painted is inside a box, but for the half pixel of a smooth edge.
    assert (colored & ~covered).sum() <= 0.01 * colored.sum() + 4


def test_images_vary():
    renders = [render(np.random.default_rng(seed), 64) for seed in range(40)]
    counts = [len(labels) for _, labels in renders]
    assert set(counts) == {1, 2, 3, 4, 5, 6}
    kinds = np.concatenate([labels[:, 0] for _, labels in renders])
    assert set(kinds) == {0, 1, 2, 3}
    widths = np.concatenate([labels[:, 3] for _, labels in renders])
    assert widths.max() > 2 * widths.min()


@pytest.mark.parametrize("linked", ["images", "images/train", "labels/val"])
def test_a_folder_that_leads_elsewhere_is_refused(tmp_path, linked):
    root, mine = tmp_path / "shapes", tmp_path / "mine"
    make_shapes(root, train=1, val=1, size=64)
    mine.mkdir()
    (root / linked).rename(tmp_path / "aside")
    (root / linked).symlink_to(mine)
    with pytest.raises(DataError, match=linked):
        make_shapes(root, train=1, val=1, size=64)
    assert not list(mine.iterdir())


def test_nothing_is_written_through_links(tmp_path):
    root, mine = tmp_path / "shapes", tmp_path / "mine"
    make_shapes(root, train=1, val=1, size=64)
    mine.write_text("kept")
    for name in ("images/train/00000.png", "labels/train/00000.txt"):
        (root / name).unlink()
    (root / "images/train/00000.png").symlink_to(mine)
    (root / "labels/train/00000.txt").symlink_to(tmp_path / "new")
    make_shapes(root, train=1, val=1, size=64)
    assert mine.read_text() == "kept" and not (tmp_path / "new").exists()
