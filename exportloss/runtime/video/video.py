"""Frames from a video file of somebody else, decoded in a process of its own.

FFmpeg is a large program in C, and a few bytes of a file can ask it for gigabytes. So a video is
read in a child, which may take so much memory and time, writes no file, and ends with the video.
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

_LONGEST = 86_400.0  # seconds for a frame, however many are skipped before it


class Video:
    """A video file that is open.

    Attributes:
        path: the file.
        count: number of its frames as the file gives it, unchecked; 0 where it does not.
        rate: frames per second, on average.
        time_base: seconds per unit of its times; 0 where the file has none.
        damage: what was wrong with the frames, in words, once `frames` has ended; None if nothing.
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
        """Yield the frames, once. The next one is decoded meanwhile; no others are held.

        Raises:
            DataError: no frame can be decoded, one takes too long or too much memory, or FFmpeg
                ends the process.
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
        path: the file, in one of `exportloss.runtime.video.reader.DEMUXERS` and `DECODERS`.
        stride: read the first frame and every `stride`-th after it, >= 1.
        time_limit: seconds that opening may take, and each frame of the file.

    Raises:
        ConfigError: `stride` is below 1, or `time_limit` not above 0.
        DataError: the file is missing, empty, no video, of another format, or its frames have more
            than `exportloss.runtime.video.frames.MAX_FRAME_PIXELS` pixels.
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
