from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exportloss.errors import DataError
from exportloss.runtime.dataset import Dataset
from exportloss.runtime.labels import check_dataset, read_labels


def write(folder: Path, text: str | bytes, name: str = "a.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def dataset(*labels: Path) -> Dataset:
    images = tuple(path.with_suffix(".jpg") for path in labels)
    return Dataset(images=images, labels=labels, names=("a", "b", "c"))


def test_values(tmp_path):
    labels = read_labels(write(tmp_path, "2 0.5 0.25 1 1e-3\n0.0 0 1 0.125 0.5"), 3)
    assert labels.dtype == np.float32
    expected = np.array([[2, 0.5, 0.25, 1, 1e-3], [0, 0, 1, 0.125, 0.5]], dtype=np.float32)
    np.testing.assert_array_equal(labels, expected)


def test_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path):
    text = "\ufeff\r\n1 .5 .5 .1 .1\r\n \t\r\n0\t.5 .5  .2 .2 \r\n"
    np.testing.assert_array_equal(read_labels(write(tmp_path, text), 2)[:, 0], [1, 0])


@pytest.mark.parametrize("text", [None, "", "\n\n", "\ufeff"])
def test_missing_and_empty_are_pictures_without_objects(tmp_path, text):
    path = tmp_path / "none.txt" if text is None else write(tmp_path, text)
    labels = read_labels(path, 3)
    assert (labels.shape, labels.dtype) == ((0, 5), np.float32)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("1 .5 .5 .1", "4 columns, expected 5"),
        ("1 .5 .5 .1 .1 .9", "6 columns, expected 5"),
        (
            "1 .1 .1 .2 .1 .2 .2 .1 .2",
            "9 columns, expected 5 (class x y width height); convert polygons",
        ),
        ("1,.5,.5,.1,.1", "1 columns, expected 5"),
        ("cat .5 .5 .1 .1", "class 'cat' is not a number"),
        ("1 .5 half .1 .1", "y 'half' is not a number"),
        ("1 nan .5 .1 .1", "x nan is not finite"),
        ("1 .5 .5 inf .1", "width inf is not finite"),
        ("1.5 .5 .5 .1 .1", "class 1.5, expected a whole number in [0, 3)"),
        ("3 .5 .5 .1 .1", "class 3, expected a whole number in [0, 3)"),
        ("-1 .5 .5 .1 .1", "class -1, expected a whole number in [0, 3)"),
        ("1 1.01 .5 .1 .1", "x 1.01, expected a share of the picture in [0, 1]"),
        ("1 .5 -.2 .1 .1", "y -.2, expected a share of the picture in [0, 1]"),
        ("1 .5 .5 .1 320", "height 320, expected a share of the picture in [0, 1]"),
        ("1 .5 .5 0 .1", "width 0, expected a size above 0"),
        ("1 .5 .5 .1 -.1", "height -.1, expected a size above 0"),
        ("1 .5 .5 1e-60 .1", "width 1e-60, expected a size above 0"),
        ("1 .5 .5 .1 \udcff", "height '\\ufffd' is not a number"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, what):
    text = f"0 .5 .5 .1 .1\n\n{line}\n".encode(errors="surrogateescape")
    path = write(tmp_path, text)
    with pytest.raises(DataError) as caught:
        read_labels(path, 3)
    assert f"{path}:3: {what}" in str(caught.value)
    assert str(caught.value).startswith("1 bad label line;")


def test_every_bad_line_is_named(tmp_path):
    bad = {1: "1", 2: "x .5 .5 .1 .1", 4: "9 .5 .5 .1 .1", 5: "0 2 .5 .1 .1", 7: "0 .5 .5 0 .1"}
    path = write(tmp_path, "\n".join(bad.get(n, "0 .5 .5 .1 .1") for n in range(1, 9)))
    with pytest.raises(DataError) as caught:
        read_labels(path, 3)
    message = str(caught.value)
    assert "5 bad label lines" in message
    for number in range(1, 9):
        assert (f"{path}:{number}: " in message) == (number in bad)


def test_a_long_listing_is_cut(tmp_path):
    with pytest.raises(DataError) as caught:
        read_labels(write(tmp_path, "bad\n" * 27), 3)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("27 bad label lines")
    assert lines[20].split(": ")[0].endswith(":20")
    assert lines[21:] == ["and 7 more"]


def test_a_folder_in_the_place_of_a_label_file(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(DataError, match=r"a\.txt: the label file cannot be read"):
        read_labels(tmp_path / "a.txt", 3)


def test_check_dataset_returns_the_labels_of_each_picture(tmp_path):
    first = write(tmp_path, "1 .5 .5 .1 .1\n2 .5 .5 .1 .1", "1.txt")
    labels = check_dataset(dataset(first, tmp_path / "2.txt", write(tmp_path, "", "3.txt")))
    assert [len(rows) for rows in labels] == [2, 0, 0]
    np.testing.assert_array_equal(labels[0], read_labels(first, 3))


def test_check_dataset_collects_over_files(tmp_path):
    good = write(tmp_path, "1 .5 .5 .1 .1", "good.txt")
    one = write(tmp_path, "1 .5 .5 .1 .1\nbad", "one.txt")
    two = write(tmp_path, "7 .5 .5 .1 .1\n0 .5 .5 .1 .1\n0 .5 .5 .1 0", "two.txt")
    with pytest.raises(DataError) as caught:
        check_dataset(dataset(good, one, two))
    first, *listing = str(caught.value).splitlines()
    assert first.startswith("3 bad label lines")
    assert [line.split(": ")[0] for line in listing] == [f"{one}:2", f"{two}:1", f"{two}:3"]


def test_labels_that_lie_elsewhere_are_noticed(tmp_path):
    with pytest.raises(DataError, match="none of 2 pictures has a label file"):
        check_dataset(dataset(tmp_path / "1.txt", tmp_path / "2.txt"))
    check_dataset(dataset(tmp_path / "1.txt", write(tmp_path, "", "2.txt")))


share = st.floats(0, 1, width=32)
side = st.floats(2**-20, 1, width=32)


@given(st.lists(st.tuples(st.integers(0, 79), share, share, side, side)))
def test_what_is_written_is_read(tmp_path_factory, rows):
    text = "\n".join(" ".join(map(repr, row)) for row in rows)
    path = write(tmp_path_factory.getbasetemp(), text, "round_trip.txt")
    expected = np.array(rows, dtype=np.float32).reshape(-1, 5)
    np.testing.assert_array_equal(read_labels(path, 80), expected)
