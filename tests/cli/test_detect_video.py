"""`exportloss detect` on videos and cameras."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from exportloss.cli import main
from exportloss.runtime.evaluation.inference import Detector
from exportloss.runtime.video import cameras
from exportloss.runtime.video.reader import open_reader
from tests.support.bright_detector import spot_image, write_bright_detector
from tests.support.hostile.system_calls import trace, why_no_trace
from tests.support.messages import error_of, missing
from tests.support.videos import hostile_files, noise, write_audio, write_video

EXP = Path("runs/detect/exp")
SAVE = ("--save-txt", "--save-conf", "--save-crop", "--save-json")


def spots() -> list[np.ndarray]:
    """Frames with a spot that wanders, none in the second."""
    images = [spot_image(96, 128, (n % 2, 16 * n, 16, 16 * n + 16, 32)) for n in range(6)]
    images[1][:] = 0
    return images


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_bright_detector(Path("best.onnx"), names=["green", "blue"], shape=("n", 3, 64, 64))
    open_it = Detector.open

    def open_here(cls: object, path: Path, **options: Any) -> Detector:
        return open_it(path, **options | {"contained": False})  # a process each time is slow

    monkeypatch.setattr(Detector, "open", classmethod(open_here))
    return tmp_path


def detect(source: object, *arguments: object) -> int:
    words = ["detect", "--weights", "best.onnx", "--source", source, *arguments]
    return main(list(map(str, words)))


def written(folder: Path = EXP) -> set[str]:
    return {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()}


@pytest.mark.parametrize(
    ("name", "codec", "pixels"), [("clip.mkv", "ffv1", "bgr0"), ("clip.avi", "rawvideo", "bgr24")]
)
def test_a_video_gives_what_its_images_give(name, codec, pixels, capsys):
    Path("clips").mkdir()
    for number, image in enumerate(spots(), 1):
        Image.fromarray(image).save(f"clips/clip_{number}.png")
    assert detect("clips", *SAVE, "--name", "images") == 0
    write_video(Path(name), spots(), codec=codec, pixels=pixels)
    capsys.readouterr()
    assert detect(name, *SAVE) == 0
    told = capsys.readouterr()
    assert told.err == ""
    first, second, *_, last = told.out.splitlines()
    assert first.startswith(f"video 1/1 (1/{'?' if name == 'clip.mkv' else 6}) {name}: 96x128 1 gr")
    assert second.partition(": ")[2].startswith("96x128 (no detections), ")
    assert last.endswith(f" {EXP}")
    images = Path("runs/detect/images")
    frames = {one for one in written(images) if "/" in one}
    assert len(frames) == 10  # labels and crops of five
    assert written() == frames | {"clip.mp4", "detections.json"}
    for one in frames:
        assert (EXP / one).read_bytes() == (images / one).read_bytes()
    entries = json.loads((EXP / "detections.json").read_text())
    still = json.loads((images / "detections.json").read_text())
    for number, (entry, other) in enumerate(zip(entries, still, strict=True), 1):
        assert entry.pop("frame") == number
        assert entry.pop("seconds") == pytest.approx((number - 1) / 10)
        assert entry.pop("image") == name
        other.pop("image")
        assert entry == other
    with open_reader(EXP / "clip.mp4") as video:
        drawn = list(video.frames())
        assert video.rate == 10
    assert [float(frame.time) for frame in drawn] == pytest.approx([n / 10 for n in range(6)])
    assert drawn[1].image.max() < 16
    assert drawn[0].image.shape == (96, 128, 3) and drawn[0].image.max() > 200


def test_images_and_videos_are_mixed_and_one_that_is_none_is_named(capsys):
    Path("all").mkdir()
    Image.fromarray(spots()[0]).save("all/clip_1.png")
    write_video(Path("all/clip.mkv"), spots())
    Path("all/bad.mp4").write_text("no video")
    write_audio(Path("all/sound.mp4"))
    assert detect("all", "--save-txt") == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in errors[:2]] == [
        *("video 1/4 all/bad.mp4", "video 4/4 all/sound.mp4")
    ]
    assert errors[2].startswith("2 of 4 ")
    labels = {f"labels/clip_{n}.txt" for n in (1, 3, 4, 5, 6)} | {"labels/clip_1-2.txt"}
    assert written() == labels | {"clip.mp4", "clip_1-2.png"}


def test_every_nth_frame_has_the_number_it_has_in_the_video(capsys):
    write_video(Path("clip.mkv"), spots())
    assert detect("clip.mkv", "--vid-stride", 2, "--nosave", "--save-txt") == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert written() == {f"labels/clip_{n}.txt" for n in (1, 3, 5)}
    assert detect("clip.mkv", "--vid-stride", 0) == 2
    assert not missing(error_of(capsys.readouterr().err), "vid-stride", 0)


def test_of_a_video_cut_short_what_was_found_is_kept(capsys):
    path = write_video(Path("clip.avi"), spots() * 5, codec="rawvideo", pixels="bgr24")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert detect(path, "--save-json") == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("video 1/1 clip.avi: ") and not missing(errors[0], 30)
    count = len(json.loads((EXP / "detections.json").read_text()))
    assert 10 < count < 20
    with open_reader(EXP / "clip.mp4") as video:
        assert len(list(video.frames())) == count


@pytest.mark.parametrize("kind", ["text", "empty", "sound", "address", "screen", "missing"])
def test_a_source_that_is_no_video_ends_in_a_line(kind, capsys):
    source = {"address": "rtsp://camera/1", "screen": "screen"}.get(kind, "clip.mp4")
    if kind == "sound":
        write_audio(Path(source))
    elif kind in ("text", "empty"):
        Path(source).write_text("text\n" * (kind == "text"))
    assert detect(source) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"exportloss: error: {source}")
    assert not Path("runs").exists()


def test_without_pyav_images_are_detected_in_and_for_videos_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    write = Image.fromarray(spots()[0]).save
    write("a.png")
    assert detect("a.png") == 0
    Path("a.mp4").touch()
    for source in ("a.mp4", "a.*", "0"):
        assert detect(source) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "pip install av" in line
        assert "`video`" in line


def test_results_do_not_come_among_the_videos(capsys):
    write_video(Path("clip.mp4"), spots(), codec="mpeg4", pixels="yuv420p")
    before = Path("clip.mp4").read_bytes()
    assert detect("clip.mp4", "--project", ".", "--name", ".", "--exist-ok") == 2
    assert "clip.mp4" in capsys.readouterr().err
    assert Path("clip.mp4").read_bytes() == before


@pytest.mark.parametrize("stop", [None, signal.SIGINT, signal.SIGTERM])
def test_a_camera_runs_until_it_is_stopped_and_leaves_whole_files(monkeypatch, capsys, stop):
    path = write_video(Path("seen.avi"), spots() * 5, codec="rawvideo", pixels="bgr24")
    monkeypatch.setattr(cameras, "open_device", lambda number: av.open(str(path)))
    seen = cameras.Images.convert
    counted: list[int] = []

    def look(self: cameras.Images, frame: object) -> np.ndarray:
        counted.append(1)
        if len(counted) == 7 and stop is not None:
            os.kill(os.getpid(), stop)
        return seen(self, frame)

    monkeypatch.setattr(cameras.Images, "convert", look)
    before = signal.getsignal(signal.SIGINT)
    status = detect("0", "--save-txt", "--save-json")
    assert signal.getsignal(signal.SIGINT) is before
    assert status == {None: 1, signal.SIGINT: 0, signal.SIGTERM: 143}[stop]
    count = 30 if stop is None else 7
    told = capsys.readouterr()
    assert told.out.startswith("camera 0 (1): 96x128 1 green, ")
    assert str(EXP) in told.out
    assert ("camera 0: " in told.err) == (stop is None)
    assert ("\n1 of 1 sources " in told.err) == (stop is None)
    with open_reader(EXP / "0.mp4") as video:
        assert len(list(video.frames())) == count
        assert video.rate == 10
    entries = json.loads((EXP / "detections.json").read_text())
    assert [entry["frame"] for entry in entries] == list(range(1, count + 1))
    assert {entry["image"] for entry in entries} == {"camera 0"}
    assert (EXP / "labels/0_1.txt").is_file()
    assert not list(EXP.glob(".*"))


def test_a_camera_that_is_not_there_ends_in_a_line(capsys):
    assert detect("99999") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("exportloss: error: camera 99999 ")
    assert not Path("runs").exists()


def test_an_interrupted_video_leaves_no_file_that_is_not_whole(monkeypatch):
    write_video(Path("clip.mkv"), spots())
    find, calls = Detector.detect, []

    @functools.wraps(find)
    def interrupt(self: Detector, *arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return find(self, *arguments, **options)

    monkeypatch.setattr(Detector, "detect", interrupt)
    assert detect("clip.mkv", "--save-json", "--save-txt") == 130
    assert written() == {"labels/clip_1.txt"}


def test_no_video_makes_a_command_talk_to_anybody(here):
    """Down to the calls of the system, FFmpeg's included."""
    if (why := why_no_trace()) is not None:
        pytest.skip(f"system calls are not seen: {why}")
    Path("all").mkdir()
    write_video(here / "real.ts", noise(2), codec="mpeg2video", pixels="yuv420p", rate=25)
    for number, content in enumerate(hostile_files(here).values()):
        for suffix in (".mp4", ".ts", ".avi"):
            Path(f"all/{number}{suffix}").write_bytes(content)
    write_video(Path("all/real.mkv"), spots())
    words = ["detect", "--weights", "best.onnx", "--source", "all", "--save-json"]
    traced = trace(["-m", "exportloss", *words])
    assert traced.returncode == 1, traced.errors
    assert traced.sockets <= {"AF_UNIX"}
    assert not traced.strangers()
    found = json.loads((EXP / "detections.json").read_text())
    assert {Path(entry["image"]).name for entry in found} == {"real.mkv"}
