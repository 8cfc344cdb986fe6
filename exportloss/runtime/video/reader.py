"""Frames from a video file, decoded one by one in this process.

FFmpeg reads far more than videos: lists of addresses or of other files, and filter programs. Here
it gets one open file, the demuxers and decoders of common videos, and may open nothing else.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

from exportloss.errors import DataError, ExportLossError, excerpt
from exportloss.reading import open_regular
from exportloss.runtime.video.frames import (
    MAX_FRAME_PIXELS,
    Frame,
    Images,
    Timeline,
    check_frame_size,
    import_av,
)

__all__ = ["DECODERS", "DEMUXERS", "VideoReader", "open_reader"]

DEMUXERS = (
    *("asf", "avi", "gif", "m4v", "matroska", "mov", "mp4"),
    *("mpeg", "mpegts", "mpegvideo", "webm"),
)
DECODERS = frozenset(
    (
        *("av1", "cinepak", "dnxhd", "dvvideo", "ffv1", "ffvhuff", "flv", "gif", "h263", "h264"),
        *("hevc", "huffyuv", "libdav1d", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4"),
        *("msmpeg4", "msmpeg4v1", "msmpeg4v2", "png", "prores", "qtrle", "rawvideo", "svq1"),
        *("svq3", "theora", "utvideo", "vc1", "vp8", "vp9", "wmv1", "wmv2", "wmv3"),
    )
)

_MICROSECONDS = 1_000_000
_TOLERANCE = Fraction(1, 2)  # seconds by which a file may be shorter than it states
_EXPECTED = "expected asf, avi, gif, mkv, mov, mp4, mpeg, ts, webm or wmv"
# Probing needs no decoder: the frame size is known before any frame is decoded.
_OPTIONS = {
    "format_whitelist": ",".join(DEMUXERS),
    "protocol_whitelist": "none",
    "codec_whitelist": "none",
}


class VideoReader:
    """An open video file.

    Attributes:
        path: Video file.
        size: (height, width) of the frames before rotation, pixels; zeros if not known yet.
        rate: Frames per second, on average.
        time_base: Seconds per unit of the timestamps.
        count: Number of frames that the file states, unchecked; 0 if it states none.
        damage: Description of damage, set once `frames` has ended; None if there is none.
    """

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        self.path = path
        self.damage: str | None = None
        self.count = max(int(stream.frames), 0)
        self.time_base = Fraction(stream.time_base or 0)
        self._timeline = Timeline(self.time_base, stream.average_rate or stream.guessed_rate)
        self.rate = self._timeline.rate
        self._images = Images()
        self._container = container
        self._stream = stream
        context = stream.codec_context
        self.size = int(context.height), int(context.width)

    def frames(self, *, stride: int = 1) -> Iterator[Frame]:
        """Yield the frames; only one is held at a time.

        Packets that cannot be decoded are skipped; `damage` counts them at the end.

        Args:
            stride: Step between the frames that are yielded, starting with the first, >= 1.

        Raises:
            DataError: no frame can be decoded.
        """
        with _as_data_error(self.path):
            yield from self._decoded(stride)

    def _decoded(self, stride: int) -> Iterator[Frame]:
        packets = skipped = number = 0
        end = Fraction(0)
        stopped = None
        source = self._container.demux()
        while True:
            try:
                packet = next(source, None)
            except _av_error() as error:
                stopped = excerpt(getattr(error, "strerror", None) or error, 100)
                break
            if packet is None:
                break
            end = max(end, _end_of(packet))
            if packet.stream.index != self._stream.index:
                continue
            packets += packet.size > 0
            try:
                decoded = packet.decode()
            except _av_error():
                skipped += number > 0  # a recording may begin amid a sequence: not damage
                continue
            for frame in decoded:
                number += 1
                time = self._timeline.place(frame.pts)
                if (number - 1) % stride == 0:
                    yield Frame(image=self._images.convert(frame), number=number, time=time)
        if not number:
            raise DataError(
                f"{self.path}: the video has no frame that can be decoded; replace or remove it"
            )
        told = [f"reading it stopped: {stopped}"] if stopped else []
        if skipped:
            told.append(f"{skipped} damaged packets were skipped")
        if packets < self.count:
            told.append(f"it ends after {number} of its {self.count} frames")
        elif (length := self._length()) is not None and end < length - _TOLERANCE:
            told.append(f"it ends after {float(end):.1f} of its {float(length):.1f} seconds")
        self.damage = "; ".join(told) or None

    def _length(self) -> Fraction | None:
        """Return the length that the file states, in seconds; None where FFmpeg measures it."""
        if "matroska" not in self._container.format.name or self._container.duration is None:
            return None
        start = self._container.start_time or 0
        return Fraction(self._container.duration + start, _MICROSECONDS)


@contextlib.contextmanager
def open_reader(path: str | Path) -> Iterator[VideoReader]:
    """Open a video file; nothing else is opened, whatever the file names.

    Raises:
        DataError: the file is missing, empty, or no video of `DEMUXERS` and `DECODERS`; or its
            frames have more than `MAX_FRAME_PIXELS`.
        InstallationError: PyAV is not installed.
    """
    av = import_av()
    path = Path(path)
    with contextlib.ExitStack() as stack:
        with _as_data_error(path):
            file = stack.enter_context(open_regular(path, error=DataError))
            if not os.fstat(file.fileno()).st_size:
                raise DataError(f"{path}: the file is empty; {_EXPECTED}")
            container = stack.enter_context(
                av.open(
                    file,
                    "r",
                    container_options=_OPTIONS,
                    io_open=_refuse_opening,
                    metadata_errors="replace",
                )
            )
            stream = _chosen_stream(path, container)
        yield VideoReader(path, container, stream)


def _chosen_stream(path: Path, container: Any) -> Any:
    # The cover image of an album is a video stream, too.
    cover = import_av().stream.Disposition.attached_pic
    streams = [one for one in container.streams.video if not one.disposition & cover]
    if not streams:
        kinds = sorted({one.type for one in container.streams})
        only = f", only {', '.join(kinds)}" if kinds else ""
        raise DataError(f"{path}: no video is in the file{only}; {_EXPECTED}")
    stream, context = streams[0], streams[0].codec_context
    name = None if context is None else context.codec.name
    if name not in DECODERS:
        raise DataError(
            f"{path}: the video is in {excerpt(name or 'a format unknown to FFmpeg')}, which is "
            "not read here; convert it, to H.264 for example"
        )
    if context.width or context.height:  # in MPEG known only from the first frame
        check_frame_size(path, context.width, context.height)
    context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
    return stream


def _end_of(packet: Any) -> Fraction:
    if packet.pts is None or packet.time_base is None:
        return Fraction(0)
    units: int = packet.pts + max(packet.duration or 0, 0)
    return Fraction(packet.time_base) * units


def _refuse_opening(url: str, *_: object) -> NoReturn:
    raise PermissionError(f"it asks for another file or address to be opened: {excerpt(url)}")


def _av_error() -> type[Exception]:
    error: type[Exception] = import_av().FFmpegError
    return error


@contextlib.contextmanager
def _as_data_error(path: Path) -> Iterator[None]:
    try:
        yield
    except ExportLossError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such video; correct the path") from error
    except Exception as error:  # PyAV's errors over a damaged file have no common base
        reason = excerpt(getattr(error, "strerror", None) or error, 300)
        raise DataError(
            f"{path}: the video cannot be read ({reason}); {_EXPECTED}; replace or remove it"
        ) from error
