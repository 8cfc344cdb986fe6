"""Images from files, and into the fixed size of a graph and back."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

from exportloss.bounds import at_least
from exportloss.errors import ConfigError, DataError, excerpt
from exportloss.reading import open_regular
from exportloss.runtime.images.resize import resize_area, resize_linear
from exportloss.runtime.images.unended_jpeg import MAX_JPEG_BYTES, endings

__all__ = [
    "FORMATS",
    "PADDING",
    "ExaminedImage",
    "ImageArray",
    "Letterbox",
    "examine_image",
    "inspect_image",
    "letterbox",
    "load_image",
    "load_scaled",
]

# Pillow's decoders that are used, by suffix. It has some forty more: one starts another program.
FORMATS: Mapping[str, str] = {
    **dict.fromkeys((".jpeg", ".jpg"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **{".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"},
}

ImageArray = npt.NDArray[np.uint8]

_T = TypeVar("_T")

PADDING = 114  # YOLOv5's grey

# That of JPEG also opens MPO, a JPEG with more images after it.
_DECODERS = tuple(sorted(set(FORMATS.values())))
_JPEGS = "JPEG", "MPO"
_TILE_TAGS = 322, 323  # of TIFF: width and height of a tile, pixels
_USUAL_TILE = 1024  # pixels; a tile may be larger than its image
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def load_image(path: str | Path) -> ImageArray:
    """Decode an image as it is meant to be seen.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit grey images are converted, an
    alpha channel is dropped. A JPEG that lacks nothing but its end marker is decoded.

    Returns:
        (H, W, 3) RGB in [0, 255].

    Raises:
        DataError: the file is missing, damaged, cut short, none of `FORMATS`, of floating-point
            pixels or integers of more than 16 bits, or has more than `PIL.Image.MAX_IMAGE_PIXELS`
            pixels.
    """
    return _read(path, _pixels)[0]


def load_scaled(
    path: str | Path,
    size: tuple[int, int],
    *,
    linear: bool = False,
    source: tuple[int, int] | None = None,
) -> Image.Image:
    """Decode an image at the size at which YOLOv5 trains and validates on it.

    Args:
        path: as for `load_image`.
        size: (height, width) of the canvas, pixels.
        linear: shrink by linear interpolation, as for training, rather than to the mean over
            areas, as for validation; what is enlarged is always interpolated.
        source: (height, width) that the image had when its labels were checked; None for any.

    Returns:
        The image in RGB, of the size `Letterbox.fit(source, size, truncate=True).scaled`.

    Raises:
        DataError: as for `load_image`; or its size is another than `source`.
    """
    image = load_image(path)
    found = image.shape[:2]
    if source not in (None, found):
        raise DataError(
            f"{path}: the image was replaced: its height and width are {found}, they were "
            f"{source} when it was checked; start again"
        )
    scaled = Letterbox.fit(found, size, truncate=True).scaled
    shrinks = scaled[0] <= image.shape[0] and scaled[1] <= image.shape[1]
    resize = resize_area if shrinks and not linear else resize_linear
    return Image.fromarray(resize(image, scaled))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExaminedImage:
    """An image file that can be decoded.

    Attributes:
        size: (height, width) as it is meant to be seen, pixels.
        lacks_end: whether it is a JPEG without its end marker.
    """

    size: tuple[int, int]
    lacks_end: bool = False


def examine_image(path: str | Path) -> ExaminedImage:
    """Decode an image to see that it can be decoded; JPEGs at an eighth, which is faster.

    Raises:
        DataError: as for `load_image`.
    """
    size, lacks_end = _read(path, _inspect)
    return ExaminedImage(size=size, lacks_end=lacks_end)


def inspect_image(path: str | Path) -> tuple[int, int]:
    """Decode an image as `examine_image` does, and return its (height, width) only."""
    return examine_image(path).size


def _read(path: str | Path, use: Callable[[Image.Image], _T]) -> tuple[_T, bool]:
    """Open an image and use it; whatever goes wrong with it is a DataError.

    Returns:
        What `use` returned, and whether the image is a JPEG without its end marker.
    """
    try:
        with open_regular(Path(path), error=DataError) as content:
            try:
                return _open(content, use), False
            except _UnendedError as error:
                if (whole := _completed(content)) is None:
                    raise error.problem from None
        return _open(whole, use), True
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image; correct the path") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path}: the image is too large: {error}; make it smaller, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS if you trust it"
        ) from error
    except Exception as error:  # Decoders raise nearly anything over a damaged file.
        raise DataError(
            f"{path}: the image cannot be decoded ({excerpt(error, 300)}); replace or remove it"
        ) from error


class _UnendedError(Exception):
    """A JPEG ended before its decoder did."""

    def __init__(self, problem: OSError) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _open(content: BinaryIO, use: Callable[[Image.Image], _T]) -> _T:
    with Image.open(content, formats=_DECODERS) as file:
        limit = Image.MAX_IMAGE_PIXELS
        # Pillow itself only warns up to twice the limit.
        if limit is not None and file.width * file.height > limit:
            raise Image.DecompressionBombError(
                f"{file.width} x {file.height} is more than {limit} pixels"
            )
        _refuse_wide(file)
        try:
            return use(file)
        except OSError as error:
            if file.format in _JPEGS:
                raise _UnendedError(error) from error
            raise


def _completed(content: BinaryIO) -> BinaryIO | None:
    """Return a JPEG with its end marker; None where more than that is missing."""
    content.seek(0)
    held = content.read(MAX_JPEG_BYTES + 1)
    if len(held) > MAX_JPEG_BYTES or not (tries := endings(held)):
        return None
    try:
        pixels = _open(io.BytesIO(tries[0]), _pixels)
        for ending in tries[1:]:
            if not np.array_equal(_open(io.BytesIO(ending), _pixels), pixels):
                return None
    except _UnendedError:
        return None
    return io.BytesIO(tries[0])


def _pixels(file: Image.Image) -> ImageArray:
    return np.array(_to_rgb(ImageOps.exif_transpose(file)))


def _inspect(file: Image.Image) -> tuple[int, int]:
    full = _jpeg_size(file)
    file.draft(None, (1, 1))
    image = ImageOps.exif_transpose(file)
    return full or (image.height, image.width)


def _jpeg_size(file: Image.Image) -> tuple[int, int] | None:
    """Return the (height, width) of a JPEG once it is turned upright; None for other formats."""
    if file.format not in _JPEGS:
        return None
    is_turned = file.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return file.size if is_turned else file.size[::-1]


def _refuse_wide(file: Image.Image) -> None:
    """Refuse, before memory is taken, pixels of more than 16 bits, and tiles beyond the image."""
    if file.mode == "F":
        raise ValueError("its pixels are floating-point; expected 8 or 16 bits")
    # Pillow before 11 reads 16 bits of PNG as 32.
    if file.mode == "I" and file.format != "PNG":
        raise ValueError("its pixels have 32 bits; expected 8 or 16")
    tags = getattr(file, "tag_v2", {})
    for tag, side in zip(_TILE_TAGS, file.size, strict=True):
        if (tile := tags.get(tag, 0)) > max(2 * side, _USUAL_TILE):
            raise ValueError(f"its tiles have a side of {tile} pixels, the image {side}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion saturates it.
        grey = (np.clip(np.asarray(image), 0, 65535) // 256).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Letterbox:
    """Where an image lies on its canvas.

    Attributes:
        source: (height, width) of the image, pixels.
        size: (height, width) of the canvas, pixels.
        ratio: (vertical, horizontal) scale, canvas pixels an image pixel; the two differ by the
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
        """Return where an image lies that is scaled to fit a canvas, aspect kept, and centred.

        Args:
            source: (height, width) of the image, at least one pixel.
            size: (height, width) of the canvas, the same.
            scale_up: whether an image smaller than the canvas is enlarged.
            truncate: cut the scaled sides to whole pixels, as YOLOv5 does where it reads images
                for training and validation, rather than round them, as it does for detection.
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
        """Draw an image, scaled already, on a canvas of grey."""
        canvas = Image.new("RGB", self.size[::-1], (color,) * 3)
        canvas.paste(image, self.pad[::-1])
        return canvas

    def map_labels(self, labels: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Move normalised boxes from the image to the canvas.

        Args:
            labels: (n, 5) class, x, y, width, height; centre and size as shares of the image.

        Returns:
            (n, 5) the same, as shares of the canvas.
        """
        (height, width), (canvas_height, canvas_width) = self.source, self.size
        scale = np.array([self.ratio[1] * width, self.ratio[0] * height])
        canvas = np.array([canvas_width, canvas_height])
        mapped = labels.astype(np.float64)
        mapped[:, 1:3] = (mapped[:, 1:3] * scale + self.pad[::-1]) / canvas
        mapped[:, 3:5] *= scale / canvas
        mapped[:, 1:] = np.clip(mapped[:, 1:], 0, 1)  # rounding only: the canvas holds it all
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
    """Scale an image to fit a canvas, aspect kept, and centre it on grey.

    These are the pixels on which YOLOv5 detects: OpenCV's linear interpolation, up and down.

    Args:
        image: (H, W, 3), any size of at least one pixel.
        size: (height, width) of the canvas, pixels.
        color: grey value of the padding, in [0, 255].
        scale_up: whether an image smaller than the canvas is enlarged.

    Returns:
        The canvas (height, width, 3), and where on it the image lies.

    Raises:
        ConfigError: the size is not positive, the color not in [0, 255], or the image not
            (H, W, 3) of uint8.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ConfigError(f"image is {image.dtype} {image.shape}; expected uint8 (H, W, 3)")
    at_least(1, size=min(size))
    if not 0 <= color <= 255:
        raise ConfigError(f"color is {color}; expected a grey value in [0, 255]")
    box = Letterbox.fit(image.shape[:2], size, scale_up=scale_up)
    canvas = box.place(Image.fromarray(resize_linear(image, box.scaled)), color)
    return np.array(canvas), box
