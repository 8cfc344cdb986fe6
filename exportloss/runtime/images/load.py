"""Decoding of image files."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from exportloss.errors import DataError, excerpt
from exportloss.reading import open_regular
from exportloss.runtime.images.letterbox import Letterbox
from exportloss.runtime.images.resize import ImageArray, resize_area, resize_linear
from exportloss.runtime.images.unended_jpeg import MAX_JPEG_BYTES, endings

__all__ = [
    "FORMATS",
    "ExaminedImage",
    "ImageArray",
    "examine_image",
    "inspect_image",
    "load_image",
    "load_scaled",
]

# The only decoders of Pillow that are used, by suffix. It has some forty more; one of them starts
# another program.
FORMATS: Mapping[str, str] = {
    **dict.fromkeys((".jpeg", ".jpg"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **{".png": "PNG", ".bmp": "BMP", ".webp": "WEBP"},
}

_T = TypeVar("_T")

# The JPEG decoder also opens MPO: a JPEG with more images after it.
_DECODERS = tuple(sorted(set(FORMATS.values())))
_JPEGS = "JPEG", "MPO"
_TILE_TAGS = 322, 323  # of TIFF: width and height of a tile, pixels
_USUAL_TILE = 1024  # pixels; a tile may be larger than its image
_TURNED = (5, 6, 7, 8)  # EXIF orientations that exchange width and height


def load_image(path: str | Path) -> ImageArray:
    """Decode an image upright, in RGB.

    EXIF orientation is applied; grey, palette, CMYK and 16-bit grey images are converted; an
    alpha channel is dropped. A JPEG that lacks only its end marker is accepted.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: the file is missing, damaged, truncated, or not one of `FORMATS`; its pixels are
            floating-point or have more than 16 bits; or it has more than
            `PIL.Image.MAX_IMAGE_PIXELS` pixels.
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
        path: Image file.
        size: (height, width) of the canvas, pixels.
        linear: True to shrink by linear interpolation, as for training; False to average over
            areas, as for validation. Enlarging always interpolates.
        source: (height, width) of the image when its data set was checked; None to skip the check.

    Returns:
        The image in RGB, of the size `Letterbox.fit(source, size, truncate=True).scaled`.

    Raises:
        DataError: as for `load_image`, or the image's size is not `source`.
    """
    image = load_image(path)
    found = image.shape[:2]
    if source not in (None, found):
        raise DataError(
            f"{path}: the image was replaced: its height and width are {found}, expected "
            f"{source} as when the data set was checked; start again"
        )
    scaled = Letterbox.fit(found, size, truncate=True).scaled
    shrinks = scaled[0] <= image.shape[0] and scaled[1] <= image.shape[1]
    resize = resize_area if shrinks and not linear else resize_linear
    return Image.fromarray(resize(image, scaled))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExaminedImage:
    """An image file that can be decoded.

    Attributes:
        size: (height, width) of the upright image, pixels.
        lacks_end: True for a JPEG without its end marker.
    """

    size: tuple[int, int]
    lacks_end: bool = False


def examine_image(path: str | Path) -> ExaminedImage:
    """Check that an image can be decoded; JPEGs are decoded at an eighth of their size, for speed.

    Raises:
        DataError: as for `load_image`.
    """
    size, lacks_end = _read(path, _inspect)
    return ExaminedImage(size=size, lacks_end=lacks_end)


def inspect_image(path: str | Path) -> tuple[int, int]:
    """Decode an image as `examine_image` does, and return its (height, width) only."""
    return examine_image(path).size


def _read(path: str | Path, use: Callable[[Image.Image], _T]) -> tuple[_T, bool]:
    """Open an image and apply `use` to it; every failure becomes a DataError.

    Returns:
        The result of `use`, and whether the image is a JPEG without its end marker.
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
    except Exception as error:  # decoders raise nearly any type over a damaged file
        raise DataError(
            f"{path}: the image cannot be decoded ({excerpt(error, 300)}); replace or remove it"
        ) from error


class _UnendedError(Exception):
    """A JPEG that ended before its decoder was done."""

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
    """Append the end marker to a JPEG; return None if more than that is missing."""
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
    """Return the (height, width) of a JPEG once upright; None for other formats."""
    if file.format not in _JPEGS:
        return None
    is_turned = file.getexif().get(ExifTags.Base.Orientation) in _TURNED
    return file.size if is_turned else file.size[::-1]


def _refuse_wide(file: Image.Image) -> None:
    """Refuse pixels over 16 bits and oversized tiles, before any memory is allocated."""
    if file.mode == "F":
        raise ValueError("its pixels are floating-point; expected 8 or 16 bits")
    # Pillow before 11 reads 16 bits of PNG as 32.
    if file.mode == "I" and file.format != "PNG":
        raise ValueError("its pixels have 32 bits; expected 8 or 16")
    tags = getattr(file, "tag_v2", {})
    for tag, side in zip(_TILE_TAGS, file.size, strict=True):
        if (tile := tags.get(tag, 0)) > (most := max(2 * side, _USUAL_TILE)):
            raise ValueError(f"its tiles have a side of {tile} pixels; expected at most {most}")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's own conversion saturates it.
        grey = (np.clip(np.asarray(image), 0, 65535) // 256).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
