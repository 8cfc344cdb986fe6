"""Frames from video files."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from exportloss.errors import ConfigError, DataError, ExportLossError, InstallationError
from exportloss.runtime.processes import child
from exportloss.runtime.video import reader as video_reader
from exportloss.runtime.video.frames import MAX_FRAME_PIXELS, Frame, Timeline, check_frame_size
from exportloss.runtime.video.reader import open_reader
from exportloss.runtime.video.video import open_video
from tests.support.messages import mentions
from tests.support.videos import hostile_files, noise, write_audio, write_video


def read(path: Path, **options: int) -> tuple[list[Frame], str | None]:
    """All frames and what was damaged, decoded in this process."""
    with open_reader(path) as video:
        return list(video.frames(**options)), video.damage


def assert_frames(frames: list[Frame], images: list[np.ndarray]) -> None:
    assert [frame.number for frame in frames] == list(range(1, len(images) + 1))
    for frame, image in zip(frames, images, strict=True):
        np.testing.assert_array_equal(frame.image, image)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [
        ("a.mkv", "ffv1", "bgr0"),
        ("a.AVI", "rawvideo", "bgr24"),
        ("a.mov", "png", "rgb24"),
        ("a.mp4", "png", "rgb24"),
    ],
)
def test_a_lossless_video_has_the_pixels_of_its_images(tmp_path, name, codec, pixels):
    images = noise(5)
    path = tmp_path / name
    write_video(path, images, codec=codec, pixels=pixels)
    frames, damage = read(path)
    assert_frames(frames, images)
    assert [frame.time for frame in frames] == [Fraction(n, 10) for n in range(5)]
    assert damage is None


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("a.m4v", "mpeg4", {"form": "mp4"}),
        ("a.ts", "libx264", {"form": "mpegts"}),
        ("a.mpg", "mpeg2video", {"form": "mpeg", "rate": 25}),
        ("a.wmv", "wmv2", {}),
        ("a.webm", "libvpx-vp9", {}),
        ("a.mov", "mjpeg", {"pixels": "yuvj420p"}),
        ("a.gif", "gif", {"pixels": "rgb8"}),
    ],
)
def test_the_usual_formats_are_read(tmp_path, name, codec, options):
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    images = [np.broadcast_to(np.roll(ramp, 4 * n)[None, :, None], (48, 64, 3)) for n in range(8)]
    images = [np.ascontiguousarray(image) for image in images]
    path = write_video(tmp_path / name, images, codec=codec, **{"pixels": "yuv420p"} | options)
    frames, damage = read(path)
    assert damage is None
    assert [frame.number for frame in frames] == list(range(1, 9))
    for frame, image in zip(frames, images, strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() < 20


def test_a_child_sends_the_same_frames(tmp_path):
    images = noise(5)
    path = write_video(tmp_path / "a.mkv", images)
    with open_video(path, stride=2) as video:
        frames = list(video.frames())
        assert video.rate == 10 and video.damage is None
    assert [(frame.number, frame.time) for frame in frames] == [
        *((1, 0), (3, Fraction(1, 5)), (5, Fraction(2, 5)))
    ]
    for frame, image in zip(frames, images[::2], strict=True):
        np.testing.assert_array_equal(frame.image, image)


def test_no_frame_is_kept_until_garbage_is_collected(tmp_path):
    path = write_video(tmp_path / "a.mov", noise(9), codec="png", pixels="rgb24", rotation=90)
    gc.collect()
    gc.disable()
    try:
        with open_reader(path) as video:
            for frame in video.frames():
                kept = sum(isinstance(one, av.VideoFrame) for one in gc.get_objects())
                assert kept < 5, frame.number
    finally:
        gc.enable()
    assert frame.number == 9


def test_a_child_ends_with_its_video(tmp_path):
    path = write_video(tmp_path / "a.mkv", noise(20, 400, 400))
    with open_video(path) as video:
        next(iter(video.frames()))
        process = video._child._process
        assert process.poll() is None
    assert process.poll() is not None


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_frames_are_turned_as_a_phone_says(tmp_path, turns, mirrored):
    (image,) = noise(1)
    path = write_video(
        tmp_path / "a.mov",
        [image],
        codec="png",
        pixels="rgb24",
        rotation=90 * turns,
        mirrored=mirrored,
    )
    seen = np.rot90(image, turns)
    ((frame,), _) = read(path)
    np.testing.assert_array_equal(frame.image, seen[:, ::-1] if mirrored else seen)


def test_times_of_a_variable_rate_are_kept(tmp_path):
    times = [0, 40, 1000, 1010, 5000]
    path = write_video(tmp_path / "a.mkv", noise(5), times=times)
    frames, damage = read(path)
    assert [frame.time * 1000 for frame in frames] == times
    assert damage is None


def test_times_only_rise():
    timeline = Timeline(Fraction(1, 10), Fraction(2))
    places = [timeline.place(pts) for pts in (50, 51, 51, 52, 3, 4, None, 2**62)]
    half, tenth = Fraction(1, 2), Fraction(1, 10)
    expected = [Fraction(0), tenth, tenth + half]
    expected += [expected[-1] + tenth, expected[-1] + tenth + half]
    assert places[:5] == expected
    assert places[5] == places[4] + tenth
    assert places[6:] == [places[5] + half, places[5] + 2 * half]
    assert Timeline(None, Fraction(10**9)).rate == Timeline(None, None).rate == 25


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a.mkv", {}, "3.0 seconds"),
        ("a.avi", {}, "30 frames"),
        ("a.mp4", {"codec": "png", "pixels": "rgb24", "movflags": "faststart"}, "30 frames"),
    ],
)
def test_of_a_file_cut_short_the_frames_before_are_kept(tmp_path, name, options, said):
    images = noise(30)
    path = write_video(tmp_path / name, images, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    frames, damage = read(path)
    assert 12 < len(frames) < 24
    assert_frames(frames, images[: len(frames)])
    reached = len(frames) / 10 if said.endswith("seconds") else len(frames)
    assert damage is not None and re.search(rf"\b{reached} .*\b{said}", damage)


def test_a_damaged_packet_is_skipped_and_said(tmp_path):
    images = noise(9)
    path = write_video(tmp_path / "a.avi", images, codec="png", pixels="rgb24")
    content = bytearray(path.read_bytes())
    starts = [at for at in range(len(content)) if content.startswith(b"\x89PNG", at)]
    content[starts[4] : starts[4] + 8] = bytes(8)
    path.write_bytes(content)
    frames, damage = read(path)
    assert 6 < len(frames) < 9
    for frame in frames:
        np.testing.assert_array_equal(frame.image, images[int(frame.time * 10)])
    assert damage is not None and "1 damaged packet" in damage


def test_a_file_without_the_index_that_is_written_last_is_refused(tmp_path):
    path = write_video(tmp_path / "a.mp4", noise(9), codec="libx264", pixels="yuv420p")
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(DataError, match=rf"^{path}: "):
        read(path)


@pytest.mark.parametrize(
    ("content", "match"),
    [(b"", "empty"), (b"no video at all\n" * 99, "read"), (None, "no such")],
)
def test_no_video(tmp_path, content, match):
    path = tmp_path / "a.mp4"
    if content is not None:
        path.write_bytes(content)
    for opened in (open_reader, open_video):
        with pytest.raises(DataError, match=rf"^{path}: .*{match}"), opened(path):
            pass


def test_sound_alone_is_refused(tmp_path):
    path = write_audio(tmp_path / "a.mp4")
    with pytest.raises(DataError, match=rf"^{path}: .*audio"):
        read(path)


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.avi"])
def test_a_video_without_frames_is_refused(tmp_path, name):
    path = tmp_path / name
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        output.start_encoding()
    with pytest.raises(DataError, match=rf"^{path}: .*(no frame|no video|End of file)"):
        read(path)


def test_a_pipe_or_a_folder_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("pipe.mp4", "."):
        with pytest.raises(DataError, match=mentions(tmp_path / name, "regular")):
            read(tmp_path / name)


def test_a_decoder_that_is_not_listed_is_refused(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.mkv", noise(1))
    monkeypatch.setattr(video_reader, "DECODERS", video_reader.DECODERS - {"ffv1"})
    with pytest.raises(DataError, match=rf"^{path}: .*ffv1"):
        read(path)


def test_the_size_of_a_frame_is_limited():
    check_frame_size("a", 1 << 13, MAX_FRAME_PIXELS >> 13)
    for width, height in ((1 << 13, (MAX_FRAME_PIXELS >> 13) + 1), (0, 9), (-1, -1)):
        with pytest.raises(DataError, match=rf"^a: .*{width} x {height}"):
            check_frame_size("a", width, height)


def test_hostile_files_open_nothing_and_take_little(tmp_path):
    resource = pytest.importorskip("resource")
    write_video(tmp_path / "real.ts", noise(2), codec="mpeg2video", pixels="yuv420p", rate=25)
    for name, content in hostile_files(tmp_path).items():
        path = tmp_path / "hostile.mp4"
        path.write_bytes(content)
        with pytest.raises(DataError) as caught, open_video(path) as video:
            list(video.frames())
        assert str(caught.value).startswith(f"{path}: "), name
        assert "\n" not in str(caught.value), name
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert most * (1 if sys.platform == "darwin" else 1 << 10) < 3 << 30


def test_a_child_that_takes_too_long_is_ended(tmp_path):
    path = write_video(tmp_path / "a.mkv", noise(1))
    said = pytest.raises(DataError, match=rf"^{path}: .*0.001 seconds")
    with said, open_video(path, time_limit=0.001):
        pass


@pytest.mark.parametrize("options", [{"stride": 0}, {"time_limit": 0}, {"time_limit": -1}])
def test_options_out_of_range(tmp_path, options):
    ((name, value),) = options.items()
    with pytest.raises(ConfigError, match=mentions(name, value)), open_video(tmp_path, **options):
        pass


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InstallationError, match="`video`"), open_video(tmp_path):
        pass


def test_what_a_child_tells_cannot_be_any_exception():
    for name in ("ExportLossError", "DataError", "SystemExit", "excerpt", "__name__"):
        with pytest.raises(ExportLossError), contextlib.suppress(TypeError):
            child.raise_told({"error": name, "message": "no"}, default=DataError)
    child.raise_told({"damage": None}, default=DataError)
