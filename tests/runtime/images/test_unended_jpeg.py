"""JPEG files without their end marker are read; those that lack more are refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from exportloss.cli.data_report import print_split
from exportloss.errors import DataError
from exportloss.runtime.data.dataset import Dataset
from exportloss.runtime.data.loader import Batches
from exportloss.runtime.images.load import examine_image, load_image
from exportloss.runtime.images.unended_jpeg import endings
from tests.support.messages import mentions

KINDS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "optimized": {"optimize": True},
    "restarts": {"restart_marker_blocks": 3},
    "full chroma": {"subsampling": 0, "quality": 100},
}


def encode(image: np.ndarray, **options: Any) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", **options)
    return content.getvalue()


def pattern(height: int = 50, width: int = 83) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([3 * x % 256, 5 * y % 256, x * y % 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("missing", [1, 2])
def test_without_the_marker_the_pixels_are_those_with_it(tmp_path, options, missing):
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(pattern(), **options))
    expected = load_image(path)
    assert not examine_image(path).lacks_end
    content = path.read_bytes()[:-missing]
    path.write_bytes(content)
    np.testing.assert_array_equal(load_image(path), expected)
    examined = examine_image(path)
    assert (examined.size, examined.lacks_end) == ((50, 83), True)
    assert path.read_bytes() == content


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_where_scan_data_is_missing_the_file_is_refused_by_name(tmp_path, options):
    path = tmp_path / "a.jpg"
    whole = encode(pattern(), **options)
    for cut in (*range(3, 30), *range(30, len(whole), len(whole) // 30)):
        path.write_bytes(whole[:-cut])
        for read in (load_image, examine_image):
            with pytest.raises(DataError, match=mentions(path, "decoded")):
                read(path)


def test_a_progressive_file_that_ends_between_two_scans_is_refused(tmp_path):
    whole = encode(pattern(), progressive=True)
    starts = [at for at in range(len(whole)) if whole[at : at + 2] in (b"\xff\xc4", b"\xff\xda")]
    assert len(starts) > 5
    for start in starts:
        assert endings(whole[:start]) == ()
    assert endings(whole[:-2])


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8", b"\xff" * 1000, b"\xff\xda\0"])
def test_what_has_no_scan_has_no_endings(content):
    assert endings(content) == ()


def test_they_are_counted_and_said_now_and_on_later_starts(tmp_path, capsys):
    images = tuple(tmp_path / f"{index}.jpg" for index in range(3))
    for index, path in enumerate(images):
        path.write_bytes(encode(pattern())[: -2 if index else None])
        path.with_suffix(".txt").write_text("0 .5 .5 .5 .5")
    labels = tuple(path.with_suffix(".txt") for path in images)
    dataset = Dataset(images=images, labels=labels, names=("a",))
    held = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for _ in range(2):  # the second time from the index
        batches = Batches(dataset, 1, (32, 32))
        assert batches.unended == 2
        print_split("train", batches)
        assert "note: 2 JPEG files" in capsys.readouterr().out
        first, *others = batches
        for other in others:
            np.testing.assert_array_equal(other.images, first.images)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == held


def test_a_file_too_large_to_complete_stays_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(encode(pattern())[:-2])
    monkeypatch.setattr("exportloss.runtime.images.load.MAX_JPEG_BYTES", path.stat().st_size - 1)
    with pytest.raises(DataError, match=mentions(path, "truncated")):
        load_image(path)
