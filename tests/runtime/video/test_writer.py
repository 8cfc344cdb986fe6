"""Images written as a video, and frames from a camera."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from exportloss.errors import ArtifactError, DataError, InstallationError
from exportloss.runtime.video import cameras
from exportloss.runtime.video import writer as video_writer
from exportloss.runtime.video.cameras import open_camera
from exportloss.runtime.video.reader import open_reader
from exportloss.runtime.video.writer import VideoWriter
from tests.support.videos import noise, write_video

COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 150, 30), (128, 128, 128)]


def plain(color, height=48, width=64):
    return np.full((height, width, 3), color, np.uint8)


def write(path, images, times, *, rate=10, base=Fraction(1, 1000)):
    writer = VideoWriter(path, rate=Fraction(rate), time_base=base)
    for image, time in zip(images, times, strict=True):
        writer.write(image, Fraction(time))
    writer.finish()
    writer.abandon()  # does nothing any more


def read(path):
    with open_reader(path) as video:
        return list(video.frames()), video.rate


@pytest.mark.parametrize("size", [(48, 64), (47, 65), (1, 1)])
@pytest.mark.parametrize("encoder", ["libx264", "mpeg4"])
def test_what_is_written_is_read_back(tmp_path, monkeypatch, encoder, size):
    others = video_writer._ENCODERS
    monkeypatch.setattr(video_writer, "_ENCODERS", {encoder: others[encoder]})
    path = tmp_path / "a.mp4"
    write(path, [plain(color, *size) for color in COLORS], [Fraction(n, 10) for n in range(5)])
    frames, rate = read(path)
    assert rate == 10
    even = (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    for number, (frame, color) in enumerate(zip(frames, COLORS, strict=True)):
        assert frame.image.shape == even
        np.testing.assert_allclose(frame.image[0, 0], color, atol=8)
        assert frame.time == Fraction(number, 10)


@pytest.mark.parametrize("base", [Fraction(1, 1000), Fraction(0), Fraction(1, 2**31 - 1)])
def test_times_are_kept_whatever_the_base(tmp_path, base):
    times = [0, Fraction(1, 25), Fraction(1), Fraction(1), 3600]
    write(tmp_path / "a.mp4", noise(5), times, base=base)
    frames, _ = read(tmp_path / "a.mp4")
    found = [float(frame.time) for frame in frames]
    assert found == pytest.approx([0, 0.04, 1, 1, 3600], abs=2e-3)
    assert sorted(set(found)) == found


def test_frames_of_another_size_are_fitted_to_the_first(tmp_path):
    white = 255, 255, 255
    images = [plain(white), plain(white, 96, 64), plain(white, 24, 32)]
    write(tmp_path / "a.mp4", images, [0, 1, 2])
    (_, tall, small), _ = read(tmp_path / "a.mp4")
    assert tall.image.shape == small.image.shape == (48, 64, 3)
    assert tall.image[:, :12].max() < 16 and tall.image[:, 20:44].min() > 240
    assert small.image.min() > 240


def test_there_is_no_file_before_the_end_nor_without_frames(tmp_path):
    path = tmp_path / "a.mp4"
    for end in ("abandon", "finish"):
        writer = VideoWriter(path, rate=Fraction(10), time_base=Fraction(1, 10))
        if end == "abandon":
            writer.write(plain(COLORS[0]), Fraction(0))
        assert not path.exists()
        getattr(writer, end)()
        assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match=rf"{tmp_path}/file/a.mp4"):
        VideoWriter(tmp_path / "file" / "a.mp4", rate=Fraction(10), time_base=Fraction(0))


def test_without_an_encoder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(video_writer, "_ENCODERS", {"none": {}})
    with pytest.raises(InstallationError, match="none"):
        VideoWriter(tmp_path / "a.mp4", rate=Fraction(10), time_base=Fraction(0))
    assert list(tmp_path.iterdir()) == []


def test_a_camera_gives_its_frames_until_it_is_gone(tmp_path, monkeypatch):
    images = noise(5)
    path = write_video(tmp_path / "a.avi", images, codec="rawvideo", pixels="bgr24")
    asked = []

    def fake(number):
        asked.append(number)
        return av.open(str(path))

    monkeypatch.setattr(cameras, "open_device", fake)
    with open_camera(3, stride=2) as camera:
        frames = list(camera.frames())
        assert camera.rate == 10 and camera.damage is not None
    assert asked == [3]
    assert [frame.number for frame in frames] == [1, 3, 5]
    for frame, image in zip(frames, images[::2], strict=True):
        np.testing.assert_array_equal(frame.image, image)


def test_frames_that_a_camera_sends_damaged_are_skipped(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.avi", noise(5), codec="png", pixels="rgb24")
    content = bytearray(path.read_bytes())
    first = content.index(b"\x89PNG")
    content[first : first + 8] = bytes(8)
    path.write_bytes(content)
    monkeypatch.setattr(cameras, "open_device", lambda number: av.open(str(path)))
    with open_camera(0) as camera:
        assert 2 < len(list(camera.frames())) < 5


@pytest.mark.parametrize(
    "error", [av.error.FileNotFoundError(2, "No such file"), OSError("busy"), ValueError("no such")]
)
def test_a_missing_camera_is_said(monkeypatch, error):
    def fail(number):
        raise error

    monkeypatch.setattr(cameras, "open_device", fail)
    said = pytest.raises(DataError, match=r"^camera 7 .*(No such file|busy|no such)")
    with said as caught, open_camera(7):
        pass
    assert "\n" not in str(caught.value)


def test_no_camera_has_this_number():
    with pytest.raises(DataError, match=r"^camera 999999 "), open_camera(999_999):
        pass
