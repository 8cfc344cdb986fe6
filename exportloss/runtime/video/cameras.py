"""Frames from a camera of this machine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from exportloss.errors import DataError, ExportLossError, excerpt
from exportloss.runtime.video.frames import (
    MAX_FRAME_PIXELS,
    Frame,
    Images,
    Timeline,
    check_frame_size,
    import_av,
)

__all__ = ["Camera", "open_camera", "open_device"]

_MOST_BROKEN = 100  # damaged packets in a row after which a camera counts as failed


class Camera:
    """An open camera.

    Attributes:
        number: Number of the camera, from 0.
        count: Always 0: the number of frames is unknown.
        rate: Frames per second, on average.
        time_base: Seconds per unit of its timestamps.
        damage: Reason why the frames ended; None until then.
    """

    def __init__(self, number: int, container: Any, *, stride: int) -> None:
        self.number = number
        self.count = 0
        self.damage: str | None = None
        self._images = Images()
        self._container = container
        self._stride = stride
        self._stream = container.streams.video[0]
        self.time_base = Fraction(self._stream.time_base or 0)
        self._timeline = Timeline(self.time_base, self._stream.average_rate)
        self.rate = self._timeline.rate
        context = self._stream.codec_context
        check_frame_size(f"camera {number}", context.width, context.height)
        context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}

    def frames(self) -> Iterator[Frame]:
        """Yield frames until the camera stops; damaged packets are skipped."""
        av = import_av()
        number = broken = 0
        try:
            for packet in self._container.demux(self._stream):
                try:
                    decoded = packet.decode()
                except av.FFmpegError:
                    if (broken := broken + 1) == _MOST_BROKEN:
                        raise
                    continue
                for frame in decoded:
                    number, broken = number + 1, 0
                    time = self._timeline.place(frame.pts)
                    if (number - 1) % self._stride == 0:
                        yield Frame(image=self._images.convert(frame), number=number, time=time)
        except av.FFmpegError as error:
            self.damage = f"the camera stopped: {excerpt(error.strerror or error, 100)}"
        else:
            self.damage = "the camera gives no more frames"


@contextlib.contextmanager
def open_camera(number: int, *, stride: int = 1) -> Iterator[Camera]:
    """Open a camera of this machine.

    Args:
        number: Number of the camera in the system's order, from 0.
        stride: Step between the frames that are yielded, starting with the first, >= 1.

    Raises:
        DataError: there is no such camera, or it cannot be used.
        InstallationError: PyAV is not installed.
    """
    import_av()
    with contextlib.ExitStack() as stack:
        try:
            container = stack.enter_context(open_device(number))
            camera = Camera(number, container, stride=stride)
        except ExportLossError:
            raise
        except Exception as error:  # from PyAV, or from the system
            reason = excerpt(getattr(error, "strerror", None) or error, 200)
            raise DataError(
                f"camera {number} cannot be opened ({reason}); expected the number of a camera "
                "that is connected, not used by another program, and that you may read"
            ) from error
        yield camera


def open_device(number: int) -> Any:
    """Open a camera through the system's own API, as a PyAV container."""
    av = import_av()
    if sys.platform == "darwin":
        return av.open(f"{number}:none", format="avfoundation", options={"framerate": "30"})
    if sys.platform == "win32":
        devices = av.device.enumerate_input_devices("dshow")
        names = [one.name for one in devices if "video" in one.media_types]
        if number >= len(names):
            raise DataError(f"camera {number} is not there; expected one of {len(names)}, from 0")
        return av.open(f"video={names[number]}", format="dshow")
    return av.open(f"/dev/video{number}", format="v4l2")
