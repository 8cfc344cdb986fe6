"""Frames from an untrusted video file, decoded in a child process.

FFmpeg is a large program in C, and a few bytes of a file can make it allocate gigabytes. So a video
is read in a child process with limits on memory and time, which writes no file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from exportloss.errors import ConfigError, DataError
from exportloss.runtime.processes.child import TIME_LIMIT, Child, ChildError, raise_told
from exportloss.runtime.video.frames import Frame, import_av

__all__ = ["Video", "open_video"]

_LONGEST = 86_400.0  # most seconds per frame, however many are skipped before it


class Video:
    """An open video file.

    Attributes:
        path: Video file.
        count: Number of frames that the file states, unchecked; 0 if it states none.
        rate: Frames per second, on average.
        time_base: Seconds per unit of the timestamps; 0 if the file has none.
        damage: Description of damage, set once `frames` has ended; None if there is none.
    """

    def __init__(self, path: Path, child: Child, *, stride: int, seconds: float) -> None:
        self.path = path
        self.damage: str | None = None
        self._child = child
        self._seconds = min(seconds * stride, _LONGEST)
        about = {"path": os.fspath(path), "stride": stride}
        described, _ = self._receive(about, seconds=seconds)
        self.count = int(described["count"])
        self.rate = Fraction(*described["rate"])
        self.time_base = Fraction(*described["time_base"])

    def frames(self) -> Iterator[Frame]:
        """Yield the frames, once. Only the next frame is decoded ahead.

        Raises:
            DataError: no frame can be decoded, one takes too long or too much memory, or FFmpeg
                ends its process.
        """
        while True:
            about, pixels = self._receive()
            if "shape" not in about:
                self.damage = about["damage"]
                return
            image = np.frombuffer(pixels, np.uint8).reshape(about["shape"])
            yield Frame(image=image, number=about["number"], time=Fraction(*about["time"]))

    def _receive(
        self, request: dict[str, Any] | None = None, *, seconds: float | None = None
    ) -> tuple[dict[str, Any], bytes]:
        asked = None if request is None else (request, b"")
        try:
            answer, content = self._child.exchange(seconds or self._seconds, asked)
        except ChildError as error:
            raise DataError(
                f"{self.path}: FFmpeg {error} over the video; is it damaged, or made to do so?"
            ) from error
        raise_told(answer, default=DataError)
        return answer, content


@contextlib.contextmanager
def open_video(
    path: str | Path, *, stride: int = 1, time_limit: float = TIME_LIMIT
) -> Iterator[Video]:
    """Open a video file; nothing else is opened, whatever the file names.

    Args:
        path: Video of one of `exportloss.runtime.video.reader.DEMUXERS` and `DECODERS`.
        stride: Step between the frames that are yielded, starting with the first, >= 1.
        time_limit: Most seconds for opening, and per frame of the file.

    Raises:
        ConfigError: `stride` is below 1, or `time_limit` not above 0.
        DataError: the file is missing, empty, no video, or of another format; or its frames have
            more than `exportloss.runtime.video.frames.MAX_FRAME_PIXELS`.
        InstallationError: PyAV is not installed.
    """
    if stride < 1:
        raise ConfigError(f"stride is {stride}; expected at least 1")
    if not time_limit > 0:
        raise ConfigError(f"time_limit is {time_limit}; expected seconds above 0")
    import_av()
    child = Child("exportloss.runtime.video.child")
    try:
        yield Video(Path(path), child, stride=stride, seconds=time_limit)
    finally:
        child.end()
