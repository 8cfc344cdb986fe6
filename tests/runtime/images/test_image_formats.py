"""Which decoders an image can reach, whatever its file is called, and what they may take."""

from __future__ import annotations

import io
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from exportloss.errors import DataError
from exportloss.runtime.images.load import FORMATS, inspect_image, load_image, load_scaled

READERS: tuple[Callable[[Path], object], ...] = (
    load_image,
    inspect_image,
    lambda path: load_scaled(path, (32, 32)),
)
EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    b"(%pipe%touch started) (w) file closefile\nshowpage\n%%EOF\n"
)


def images() -> dict[str, bytes]:
    """One in each format that this Pillow writes."""
    Image.init()
    image = Image.fromarray(np.full((8, 8, 3), 90, np.uint8))
    written = {"EPS": EPS}
    for kind in Image.SAVE:
        for mode in ("RGB", "P", "L", "1"):
            content = io.BytesIO()
            try:
                image.convert(mode).save(content, kind)
            except Exception:
                continue
            written[kind] = content.getvalue()
            break
    return written


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".eps"])
def test_only_usual_formats_are_decoded(tmp_path, monkeypatch, suffix):
    """By content: others are refused, and no decoder of theirs is asked."""
    usual = {*FORMATS.values(), "MPO"}
    found = images()
    assert len(found.keys() - usual) > 10
    monkeypatch.chdir(tmp_path)
    for kind, content in found.items():
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        for read in READERS:
            if kind in usual:
                read(path)
            else:
                with pytest.raises(DataError, match=path.name):
                    read(path)
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


def test_a_image_starts_no_program(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **_: started.append(a))
    monkeypatch.setattr(os, "system", started.append)
    (tmp_path / "a.jpg").write_bytes(EPS)
    for read in READERS:
        with pytest.raises(DataError):
            read(tmp_path / "a.jpg")
    assert not started


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float32])
def test_wide_pixels_are_refused(tmp_path, dtype):
    Image.fromarray(np.ones((4, 4), np.int32 if dtype != np.float32 else dtype)).save(
        tmp_path / "a.tif"
    )
    for read in READERS:
        with pytest.raises(DataError, match=r"32 bits|floating"):
            read(tmp_path / "a.tif")


def test_sixteen_bits_are_read(tmp_path):
    grey = (257 * np.arange(64).reshape(8, 8)).astype(np.uint16)
    for suffix in ("png", "tif"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(grey).save(path)
        np.testing.assert_array_equal(load_image(path)[..., 0], grey // 256)


def tiff(*, width: int, height: int, bits: int, samples: int, tile: tuple[int, int]) -> bytes:
    """A TIFF of tiles, compressed with LZW, whose tiles are not there."""
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 5),
        (262, 2 if samples == 3 else 1),
        (277, samples),
        (322, tile[0]),
        (323, tile[1]),
        (324, 8),
        (325, 8),
        (339, 1),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + directory


MEASURE = """
import resource, sys
from exportloss.runtime.images.load import load_image
from exportloss.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_image(sys.argv[1])
except DataError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    "content",
    [
        tiff(width=16, height=16, bits=8, samples=3, tile=(1 << 16, 1 << 16)),
        tiff(width=1, height=1, bits=8, samples=1, tile=(1 << 30, 16)),
        tiff(width=9000, height=9000, bits=32, samples=1, tile=(9008, 9008)),
        tiff(width=9000, height=9000, bits=32, samples=1, tile=(256, 256)),
    ],
)
def test_memory_is_not_taken_for_what_is_refused(tmp_path, content):
    (tmp_path / "a.tif").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "a.tif")],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30)),
    )
    assert int(done.stdout) < 64 << 10  # KiB


def test_a_tile_may_be_larger_than_a_small_image(tmp_path):
    if not features.check("libtiff"):
        pytest.skip("Pillow has no libtiff")
    image = Image.fromarray(np.full((20, 20, 3), 90, np.uint8))
    info = {322: 256, 323: 256}
    image.save(tmp_path / "a.tif", compression="tiff_lzw", tiffinfo=info)
    assert load_image(tmp_path / "a.tif").shape == (20, 20, 3)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    for read in READERS:
        with pytest.raises(DataError, match="regular file"):
            read(path)
