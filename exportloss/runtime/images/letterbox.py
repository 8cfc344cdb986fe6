"""Letterboxing: an image scaled into the fixed size of a graph, and boxes mapped there and back."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
from PIL import Image

from exportloss.bounds import at_least
from exportloss.errors import ConfigError
from exportloss.runtime.images.resize import ImageArray, resize_linear

__all__ = ["PADDING", "Letterbox", "letterbox"]

PADDING = 114  # YOLOv5's grey


@dataclasses.dataclass(frozen=True, kw_only=True)
class Letterbox:
    """Position and scale of an image on its canvas.

    Attributes:
        source: (height, width) of the image, pixels.
        size: (height, width) of the canvas, pixels.
        ratio: (vertical, horizontal) scale, canvas pixels per image pixel; the two differ by the
            rounding of the scaled image to whole pixels.
        pad: (top, left) padding, pixels.
    """

    source: tuple[int, int]
    size: tuple[int, int]
    ratio: tuple[float, float]
    pad: tuple[int, int]

    @classmethod
    def fit(
        cls,
        source: tuple[int, int],
        size: tuple[int, int],
        *,
        scale_up: bool = True,
        truncate: bool = False,
    ) -> Letterbox:
        """Scale an image to fit a canvas, keep its aspect ratio, and centre it.

        Args:
            source: (height, width) of the image, at least one pixel.
            size: (height, width) of the canvas, at least one pixel.
            scale_up: True to enlarge an image smaller than the canvas.
            truncate: True to truncate the scaled sides to whole pixels, as YOLOv5 does for training
                and validation; False to round them, as it does for detection.
        """
        height, width = source
        scale = min(size[0] / height, size[1] / width)
        if not scale_up:
            scale = min(scale, 1.0)
        whole = int if truncate else round
        scaled = max(whole(height * scale), 1), max(whole(width * scale), 1)
        return cls(
            source=source,
            size=size,
            ratio=(scaled[0] / height, scaled[1] / width),
            pad=((size[0] - scaled[0]) // 2, (size[1] - scaled[1]) // 2),
        )

    @property
    def scaled(self) -> tuple[int, int]:
        """(height, width) of the image on the canvas, pixels."""
        return round(self.source[0] * self.ratio[0]), round(self.source[1] * self.ratio[1])

    def place(self, image: Image.Image, color: int = PADDING) -> Image.Image:
        """Paste an image of size `scaled` onto a grey canvas."""
        canvas = Image.new("RGB", self.size[::-1], (color,) * 3)
        canvas.paste(image, self.pad[::-1])
        return canvas

    def map_labels(self, labels: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Move normalised boxes from the image to the canvas.

        Args:
            labels: (n, 5) class, x, y, width, height; centre and size as fractions of the image.

        Returns:
            (n, 5) the same columns, as fractions of the canvas.
        """
        (height, width), (canvas_height, canvas_width) = self.source, self.size
        scale = np.array([self.ratio[1] * width, self.ratio[0] * height])
        canvas = np.array([canvas_width, canvas_height])
        mapped = labels.astype(np.float64)
        mapped[:, 1:3] = (mapped[:, 1:3] * scale + self.pad[::-1]) / canvas
        mapped[:, 3:5] *= scale / canvas
        mapped[:, 1:] = np.clip(
            mapped[:, 1:], 0, 1
        )  # the canvas holds the whole image, so this undoes rounding only
        return mapped.astype(np.float32)

    def unmap_boxes(self, boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Move predicted boxes from the canvas to the image, and clip them to it.

        Args:
            boxes: (n, 4 or more) x1, y1, x2, y2 in canvas pixels; further columns are kept.

        Returns:
            The same shape, in pixels of the image.
        """
        mapped = boxes.astype(np.float64)
        top_left, ratio, limit = self.pad[::-1], self.ratio[::-1], self.source[::-1]
        for corner in (slice(0, 2), slice(2, 4)):
            mapped[:, corner] = np.clip((mapped[:, corner] - top_left) / ratio, 0, limit)
        return mapped.astype(np.float32)


def letterbox(
    image: ImageArray, size: tuple[int, int], *, color: int = PADDING, scale_up: bool = True
) -> tuple[ImageArray, Letterbox]:
    """Scale an image to fit a canvas, keep its aspect ratio, and centre it on grey.

    Like YOLOv5's detection, this uses OpenCV's linear interpolation both to enlarge and to shrink.

    Args:
        image: (H, W, 3), any size of at least one pixel.
        size: (height, width) of the canvas, pixels.
        color: Grey value of the padding, in [0, 255].
        scale_up: True to enlarge an image smaller than the canvas.

    Returns:
        The canvas (height, width, 3), and the position of the image on it.

    Raises:
        ConfigError: `size` is not positive, `color` not in [0, 255], or `image` not uint8
            (H, W, 3).
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ConfigError(f"image is {image.dtype} {image.shape}; expected uint8 (H, W, 3)")
    at_least(1, size=min(size))
    if not 0 <= color <= 255:
        raise ConfigError(f"color is {color}; expected a grey value in [0, 255]")
    box = Letterbox.fit(image.shape[:2], size, scale_up=scale_up)
    canvas = box.place(Image.fromarray(resize_linear(image, box.scaled)), color)
    return np.array(canvas), box
