"""Frames of a video or camera as images; PyAV is imported when first needed."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from exportloss.errors import DataError, InstallationError
from exportloss.runtime.images.load import ImageArray

__all__ = ["MAX_FRAME_PIXELS", "Frame", "Images", "Timeline", "check_frame_size", "import_av"]

MAX_FRAME_PIXELS = 1 << 25  # 8K (7680 x 4320) has 33.2 million; decoders keep up to 16 frames

_USUAL_RATE = Fraction(25)  # frames per second, for a source that does not state its rate
_SLOWEST, _FASTEST = Fraction(1, 100), Fraction(1000)
_MATRIX_BYTES = 9 * 4
_LONGEST_GAP = Fraction(24 * 3600)  # seconds between two frames; more is a damaged timestamp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame of a video or camera.

    Attributes:
        image: (H, W, 3) RGB in [0, 255], upright, as from `load_image`.
        number: Position in the source, from 1.
        time: Seconds after the first frame; strictly increasing.
    """

    image: ImageArray
    number: int
    time: Fraction


class Timeline:
    """Converts the timestamps of a source's frames into strictly increasing times.

    Args:
        base: Seconds per unit of the timestamps; None if the source has none.
        rate: Frames per second, for frames without a usable timestamp; None if unknown.

    Attributes:
        rate: Frames per second that are assumed without timestamps.
    """

    def __init__(self, base: Fraction | None, rate: Fraction | None) -> None:
        usable = rate is not None and _SLOWEST <= rate <= _FASTEST
        self.rate = rate if usable and rate is not None else _USUAL_RATE
        self._base = base if base is not None and base > 0 else None
        self._shift: Fraction | None = None
        self._last: Fraction | None = None

    def place(self, pts: int | None) -> Fraction:
        """Return the time of the next frame in seconds after the first; `pts` is its timestamp."""
        given = None if pts is None or self._base is None else pts * self._base
        if self._last is None:
            self._shift, self._last = given, Fraction(0)
            return self._last
        time = None if given is None or self._shift is None else given - self._shift
        if time is None or not self._last < time <= self._last + _LONGEST_GAP:
            time = self._last + 1 / self.rate
            self._shift = None if given is None else given - time
        self._last = time
        return time


def import_av() -> ModuleType:
    """Import PyAV.

    Raises:
        InstallationError: PyAV is not installed, or cannot be loaded.
    """
    try:
        return import_module("av")
    except ImportError as error:
        raise InstallationError(
            f"videos and cameras need PyAV, which cannot be imported ({error}); "
            "pip install av, or install this package with its extra `video`"
        ) from error


def check_frame_size(what: object, width: int, height: int) -> None:
    """Check the frame size that a source states; `what` names the source in messages.

    Raises:
        DataError: a side is below 1, or the frame has more than `MAX_FRAME_PIXELS`.
    """
    if width < 1 or height < 1:
        raise DataError(f"{what}: frames of {width} x {height} pixels; is it damaged?")
    if width * height > MAX_FRAME_PIXELS:
        raise DataError(
            f"{what}: frames of {width} x {height} pixels are too large; expected at most "
            f"{MAX_FRAME_PIXELS} pixels: make it smaller"
        )


class Images:
    """Converts PyAV's frames of one source into upright RGB images.

    FFmpeg's converter and its threads are created once per source, not per frame.
    """

    def __init__(self) -> None:
        self._reformatter = import_av().video.reformatter.VideoReformatter()
        self._rotation: int | None = None
        self._matrix: list[int] | None = None

    def convert(self, frame: Any) -> ImageArray:
        """Return a frame as (H, W, 3) RGB, rotated and mirrored."""
        # Reading `side_data` keeps the frame alive until garbage collection, so it is not read for
        # every frame: the matrix belongs to the file, or changes with the rotation.
        if frame.rotation != self._rotation:
            self._rotation = frame.rotation
            given = frame.side_data.get("DISPLAYMATRIX")
            usable = given is not None and given.buffer_size >= _MATRIX_BYTES
            self._matrix = np.frombuffer(bytes(given), np.int32, 9).tolist() if usable else None
        image = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        return np.ascontiguousarray(image if self._matrix is None else _turn(image, self._matrix))


def _turn(image: ImageArray, matrix: list[int]) -> ImageArray:
    """Apply a display matrix, x' = a x + c y, y' = b x + d y, if it only flips or turns by 90°."""
    a, b, _, c, d, *_ = matrix
    if a == d == 0 and b and c:
        image = image.transpose(1, 0, 2)
        down, right = b, c
    elif b == c == 0 and a and d:
        down, right = d, a
    else:
        return image
    return image[:: -1 if down < 0 else 1, :: -1 if right < 0 else 1]
