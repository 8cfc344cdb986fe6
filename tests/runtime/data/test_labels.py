import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exportloss.errors import DataError
from exportloss.runtime.data.labels import MAX_LABEL_BYTES, MAX_LABEL_LINES, read_labels
from tests.support.messages import mentions


def write(folder: Path, text: str | bytes, name: str = "a.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_values(tmp_path):
    labels = read_labels(write(tmp_path, "2 0.5 0.25 1 1e-3\n0.0 0 1 0.125 0.5"), 3)
    assert labels.dtype == np.float32
    expected = np.array([[2, 0.5, 0.25, 1, 1e-3], [0, 0, 1, 0.125, 0.5]], dtype=np.float32)
    np.testing.assert_array_equal(labels, expected)


def test_byte_order_mark_windows_line_ends_and_blank_lines(tmp_path):
    text = "\ufeff\r\n1 .5 .5 .1 .1\r\n \t\r\n0\t.5 .5  .2 .2 \r\n"
    np.testing.assert_array_equal(read_labels(write(tmp_path, text), 2)[:, 0], [1, 0])


@pytest.mark.parametrize("text", [None, "", "\n\n", "\ufeff"])
def test_missing_and_empty_are_images_without_objects(tmp_path, text):
    path = tmp_path / "none.txt" if text is None else write(tmp_path, text)
    labels = read_labels(path, 3)
    assert (labels.shape, labels.dtype) == ((0, 5), np.float32)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("1 .5 .5 .1", "4 columns|expected 5"),
        ("1 .5 .5 .1 .1 .9", "6 columns|expected 5"),
        ("1 .1 .1 .2 .1 .2 .2 .1", "8 columns|expected 5|class x y width height"),
        ("1 .1 .1 .2 .1 1.2 .2", "x 1.2|[0, 1]"),
        ("1 .1 .1 .2 .1 .3 .1", "height 0|above 0"),
        ("1 1e309 .5 .1 .1", "x 1e309|finite"),
        ("1,.5,.5,.1,.1", "1 columns|expected 5"),
        ("cat .5 .5 .1 .1", "class 'cat'|number"),
        ("1 .5 half .1 .1", "y 'half'|number"),
        ("1 nan .5 .1 .1", "x nan|finite"),
        ("1 .5 .5 inf .1", "width inf|finite"),
        ("1.5 .5 .5 .1 .1", "class 1.5|whole number|[0, 3)"),
        ("3 .5 .5 .1 .1", "class 3|whole number|[0, 3)"),
        ("-1 .5 .5 .1 .1", "class -1|whole number|[0, 3)"),
        ("1 1.01 .5 .1 .1", "x 1.01|[0, 1]"),
        ("1 .5 -.2 .1 .1", "y -0.2|[0, 1]"),
        ("1 .5 .5 .1 320", "height 320|[0, 1]"),
        ("1 .5 .5 0 .1", "width 0|above 0"),
        ("1 .5 .5 .1 -.1", "height -0.1|above 0"),
        ("1 .5 .5 1e-60 .1", "width 1e-60|above 0"),
        ("1 .5 .5 .1 \udcff", "height '\\ufffd'|number"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, what):
    text = f"0 .5 .5 .1 .1\n\n{line}\n".encode(errors="surrogateescape")
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=mentions("1 problem", f"{path}:3: ", *what.split("|"))):
        read_labels(path, 3)


def test_every_bad_line_is_named(tmp_path):
    bad = {1: "1", 2: "x .5 .5 .1 .1", 4: "9 .5 .5 .1 .1", 5: "0 2 .5 .1 .1", 7: "0 .5 .5 0 .1"}
    path = write(tmp_path, "\n".join(bad.get(n, "0 .5 .5 .1 .1") for n in range(1, 9)))
    with pytest.raises(DataError) as caught:
        read_labels(path, 3)
    message = str(caught.value)
    assert "5 problems" in message
    for number in range(1, 9):
        assert (f"{path}:{number}: " in message) == (number in bad)


def test_a_long_listing_is_cut(tmp_path):
    with pytest.raises(DataError) as caught:
        read_labels(write(tmp_path, "bad\n" * 27), 3)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("27 problems")
    assert lines[20].split(": ")[0].endswith(":20")
    assert lines[21:] == ["and 7 more"]


def test_a_folder_in_the_place_of_a_label_file(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(DataError, match=mentions(tmp_path / "a.txt")):
        read_labels(tmp_path / "a.txt", 3)


def test_a_line_that_is_there_twice_counts_once(tmp_path):
    text = "1 .5 .5 .1 .1\n0 .5 .5 .1 .1\n1 0.5 0.50 .1 .1\n2 .5 .5 .1 .1"
    assert read_labels(write(tmp_path, text), 3)[:, 0].tolist() == [1, 0, 2]


def test_a_polygon_becomes_the_box_around_it(tmp_path):
    labels = read_labels(write(tmp_path, "1 .25 .5 .75 .25 .5 1\n0 .5 .5 .1 .1"), 3)
    np.testing.assert_allclose(labels, [[1, 0.5, 0.625, 0.5, 0.75], [0, 0.5, 0.5, 0.1, 0.1]])


def test_values_are_read_as_float32(tmp_path):
    labels = read_labels(write(tmp_path, "1 .5 .5 1.00000004 1.0000000001"), 3)
    np.testing.assert_array_equal(labels, [[1, 0.5, 0.5, 1, 1]])
    with pytest.raises(DataError, match=mentions("a.txt:1", "width 1.0000")):
        read_labels(write(tmp_path, "1 .5 .5 1.0000002 1"), 3)


def test_a_polygon_is_cut_off_at_the_border(tmp_path):
    labels = read_labels(write(tmp_path, "1 -.05 .5 1.03 .25 .5 1.1"), 3)
    np.testing.assert_allclose(labels, [[1, 0.5, 0.625, 1, 0.75]])


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"x" * (MAX_LABEL_BYTES + 1), " bytes, expected at most 4 MiB"),
        (b"\n" * MAX_LABEL_LINES + b"0 .5 .5 .1 .1", f":{MAX_LABEL_LINES + 1}: more than"),
        (b"0 .5 .5 .1 " + b"9" * 100_000, ":1: height 99999"),
    ],
)
def test_what_is_too_long_is_refused_in_few_words(tmp_path, content, what):
    with pytest.raises(DataError) as caught:
        read_labels(write(tmp_path, content), 3)
    assert what in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_file_as_large_as_allowed_is_read(tmp_path):
    row = b"0 .5 .5 .1 .1\n"
    content = row + b"\n" * (MAX_LABEL_LINES - 1) + b" " * (MAX_LABEL_BYTES - MAX_LABEL_LINES + 1)
    content = content[:MAX_LABEL_BYTES]
    with pytest.raises(DataError, match=mentions("a.txt", 20_000)):
        read_labels(write(tmp_path, content), 3)
    content = row + b" " * (MAX_LABEL_BYTES - len(row))
    assert len(read_labels(write(tmp_path, content), 3)) == 1


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(DataError, match=mentions(tmp_path / "a.txt", "regular")):
        read_labels(tmp_path / "a.txt", 3)


share = st.floats(0, 1, width=32)
side = st.floats(2**-20, 1, width=32)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 79), share, share, side, side)))
def test_what_is_written_is_read(tmp_path_factory, rows):
    text = "\n".join(" ".join(map(repr, row)) for row in rows)
    path = write(tmp_path_factory.getbasetemp(), text, "round_trip.txt")
    expected = np.array(list(dict.fromkeys(rows)), dtype=np.float32).reshape(-1, 5)
    np.testing.assert_array_equal(read_labels(path, 80), expected)


piece = st.sampled_from(
    [*"0 0 1 .5 .5 .5 .1 .1 nan inf 1e309 -1 2 9 1_0 ٣ cat".split(), "\0", "\ufeff", "\ud800"]
)
line = st.lists(piece, max_size=9).map(" ".join)
text = st.lists(line, max_size=6).flatmap(
    lambda lines: st.sampled_from(["\n", "\r\n", "\r"]).map(lambda end: end.join(lines))
)
content = st.binary(max_size=200) | text.map(lambda text: text.encode(errors="surrogatepass"))


@settings(deadline=None)
@given(content)
def test_any_bytes_are_labels_or_an_error_with_file_and_line(tmp_path_factory, content):
    path = write(tmp_path_factory.getbasetemp(), content, "any.txt")
    try:
        rows = read_labels(path, 3)
    except DataError as error:
        assert re.search(rf"^{re.escape(str(path))}:\d+: .", str(error), re.MULTILINE)
    else:
        assert np.isin(rows[:, 0], [0, 1, 2]).all()
        assert (
            (rows[:, 1:] >= 0) & (rows[:, 1:] <= 1) & (rows[:, 1:] >= [0, 0, 1e-38, 1e-38])
        ).all()
