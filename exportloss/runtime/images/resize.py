"""Resizing to OpenCV's pixels without OpenCV: its linear interpolation, and its mean over areas.

YOLOv5 was trained on these pixels. Pillow's filters smooth when they shrink an image, OpenCV's
linear interpolation does not, and the difference shows in a detector's results.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from exportloss.bounds import at_least
from exportloss.errors import ConfigError

__all__ = ["ImageArray", "resize_area", "resize_linear"]

ImageArray = npt.NDArray[np.uint8]
_Means = npt.NDArray[np.float32]
_Indices = npt.NDArray[np.intp]

_BITS = 11  # fraction bits of the fixed-point weights
_ONE = 1 << _BITS


def resize_linear(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Interpolate linearly between the four nearest pixels, as `cv2.INTER_LINEAR` does for 8 bits.

    Args:
        image: (H, W, C), at least one pixel.
        size: (height, width) of the result, each at least 1.

    Returns:
        (height, width, C), computed in OpenCV's fixed-point arithmetic: weights have 11 bits.

    Raises:
        ConfigError: the size is not positive.
    """
    at_least(1, size=min(size))
    if image.shape[:2] == size:
        return image
    (upper, lower, down), (left, right, across) = map(_neighbours, image.shape[:2], size)
    rows, places = np.unique(np.concatenate([upper, lower]), return_inverse=True)
    image = image[rows]  # when shrinking, many rows are not used
    weight = across.astype(np.int32)[:, None]
    lines = image.take(left, axis=1) * (_ONE - weight) + image.take(right, axis=1) * weight
    lines >>= 4  # so that the products with the second weight fit into 32 bits
    weight = down.astype(np.int32)[:, None, None]
    top = lines[places[: len(upper)]]
    top *= _ONE - weight
    top >>= 16
    bottom = lines[places[len(upper) :]]
    bottom *= weight
    bottom >>= 16
    top += bottom
    top += 2
    top >>= 2
    return top.astype(np.uint8)


def resize_area(image: ImageArray, size: tuple[int, int]) -> ImageArray:
    """Shrink to the mean over the area that each pixel covers, as `cv2.INTER_AREA` does.

    Args:
        image: (H, W, C), at least one pixel.
        size: (height, width) of the result, each from 1 to the image's.

    Returns:
        (height, width, C), rounded.

    Raises:
        ConfigError: `size` is not positive, or larger than the image.
    """
    at_least(1, size=min(size))
    if size[0] > image.shape[0] or size[1] > image.shape[1]:
        raise ConfigError(f"size is {size}; expected at most the image's {image.shape[:2]}")
    means = _mean_over(_mean_over(image, size[0], 0), size[1], 1)
    return np.rint(means).astype(np.uint8)


def _neighbours(length: int, wanted: int) -> tuple[_Indices, _Indices, _Indices]:
    """Return per output pixel of a line two source indices, and the weight of the second."""
    middle = ((np.arange(wanted) + 0.5) * (length / wanted) - 0.5).astype(np.float32)
    first = np.floor(middle)
    weight = np.rint((middle - first) * np.float32(_ONE)).astype(np.intp)
    index = first.astype(np.intp)
    weight[(index < 0) | (index >= length - 1)] = 0
    return np.clip(index, 0, length - 1), np.clip(index + 1, 0, length - 1), weight


def _mean_over(image: ImageArray | _Means, length: int, axis: int) -> ImageArray | _Means:
    """Average along an axis over `length` equal spans, which may begin and end within a pixel."""
    held = image.shape[axis]
    if held == length:
        return image
    span = held / length
    starts = np.arange(length) * span
    shape = [length if each == axis else 1 for each in range(image.ndim)]
    total: _Means = np.zeros((), np.float32)
    for step in range(math.ceil(span) + 1):
        pixel = starts.astype(np.intp) + step
        covered = np.minimum(starts + span, pixel + 1) - np.maximum(starts, pixel)
        weight = (np.maximum(covered, 0) / span).astype(np.float32).reshape(shape)
        total = total + weight * image.take(np.minimum(pixel, held - 1), axis=axis)
    return total
