"""Videos written frame by frame."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from exportloss.errors import ArtifactError, InstallationError, excerpt
from exportloss.runtime.images.letterbox import letterbox
from exportloss.runtime.images.resize import ImageArray
from exportloss.runtime.storage.pending_file import PendingFile
from exportloss.runtime.video.frames import import_av

__all__ = ["VideoWriter"]

# In order of preference; PyAV's build of FFmpeg may lack some. The options ask for more bits than
# the defaults, to keep small labels legible.
_ENCODERS = {
    "libx264": {"preset": "veryfast", "crf": "20"},
    "libopenh264": {"b": "8M"},
    "mpeg4": {"qscale": "3"},
}
_FINEST = 1_000_000  # units per second
_FINEST_MPEG4 = 65_535  # limit of the format
_BLACK = 0
_HD = 1  # FFmpeg's number of BT.709, for colour space, primaries and transfer


class VideoWriter:
    """Writes an MP4 file of the first frame's size, in H.264 if FFmpeg has an encoder for it.

    Args:
        path: File to write; it appears, complete, on `finish`.
        rate: Nominal frames per second.
        time_base: Seconds per unit of the timestamps; 0 for a unit that suits `rate`.

    Raises:
        ArtifactError: the folder cannot be written to.
        InstallationError: PyAV is not installed, or has no encoder.
    """

    def __init__(self, path: Path, *, rate: Fraction, time_base: Fraction) -> None:
        self._name = _encoder()
        self._rate = rate.limit_denominator(1001)
        finest = _FINEST_MPEG4 if self._name == "mpeg4" else _FINEST
        usable = 0 < time_base <= 1 / self._rate and time_base.denominator <= finest
        self._base = time_base if usable else Fraction(1, 60_000)
        self._reformatter = import_av().video.reformatter.VideoReformatter()
        self._file = PendingFile(path)
        self._output: Any = None
        self._stream: Any = None
        self._size = (0, 0)
        self._last = -1

    def write(self, image: ImageArray, time: Fraction) -> None:
        """Add a frame.

        Args:
            image: (H, W, 3) RGB. An image of another size than the first is letterboxed on black.
            time: Seconds after the start, at least one unit after the previous frame.

        Raises:
            ArtifactError: the file cannot be written.
        """
        av = import_av()
        try:
            if self._output is None:
                self._start(image)
            if image.shape[:2] != self._size:
                image, _ = letterbox(image, self._size, color=_BLACK)
            height, width = self._size
            # yuv420p needs even sides.
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame = self._reformatter.reformat(frame, format="yuv420p", dst_colorspace="ITU709")
            self._last = max(round(time / self._base), self._last + 1)
            frame.pts, frame.time_base = self._last, self._base
            self._output.mux(self._stream.encode(frame))
        except (av.FFmpegError, OSError, OverflowError) as error:
            raise self._failed(error) from error

    def finish(self) -> None:
        """Complete the file; without frames no file is written.

        Raises:
            ArtifactError: the file cannot be written.
        """
        if self._output is None:
            self._file.abandon()
            return
        av = import_av()
        try:
            self._output.mux(self._stream.encode(None))
            self._output.close()
        except (av.FFmpegError, OSError) as error:
            self.abandon()
            raise self._failed(error) from error
        self._file.complete()

    def abandon(self) -> None:
        """Discard what was written so far; no-op after `finish`."""
        output, self._output = self._output, None
        if output is not None:
            output.close()
        self._file.abandon()

    def _start(self, image: ImageArray) -> None:
        self._size = height, width = image.shape[0], image.shape[1]
        self._output = import_av().open(str(self._file.path), "w", format="mp4")
        self._stream = self._output.add_stream(
            self._name, rate=self._rate, options=_ENCODERS[self._name]
        )
        context = self._stream.codec_context
        context.width, context.height = width + width % 2, height + height % 2
        context.pix_fmt, context.time_base = "yuv420p", self._base
        context.colorspace = context.color_primaries = context.color_trc = _HD

    def _failed(self, error: Exception) -> ArtifactError:
        reason = excerpt(getattr(error, "strerror", None) or error, 300)
        return ArtifactError(f"{self._file.target} cannot be written: {reason}")


def _encoder() -> str:
    av = import_av()
    for name in _ENCODERS:
        try:
            av.Codec(name, "w")
        except ValueError:
            continue
        return name
    raise InstallationError(
        f"PyAV has none of the encoders {', '.join(_ENCODERS)}; install PyAV's wheel, which "
        "has one, or do not save videos"
    )
