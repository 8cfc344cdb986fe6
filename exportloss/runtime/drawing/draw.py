"""Boxes drawn on images, and grids of images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from exportloss.bounds import at_least
from exportloss.errors import ConfigError, excerpt, printable
from exportloss.runtime.drawing.fonts import Font, drawable_names, font_for
from exportloss.runtime.images.load import ImageArray

__all__ = ["class_color", "class_name", "draw_boxes", "grid"]

Color = tuple[int, int, int]

# Neighbours in the list are far apart in hue, so that the first few classes look different.
_PALETTE: tuple[Color, ...] = (
    (255, 82, 82),
    (38, 166, 255),
    (255, 202, 40),
    (0, 200, 150),
    (186, 104, 255),
    (255, 138, 48),
    (124, 214, 64),
    (255, 102, 178),
    (0, 188, 212),
    (104, 124, 255),
    (205, 220, 57),
    (188, 140, 110),
)
_INK, _PAPER = (24, 26, 32), (250, 250, 252)


def class_color(index: int) -> Color:
    """Return the RGB colour of a class; colours repeat after twelve classes."""
    return _PALETTE[index % len(_PALETTE)]


def class_name(names: Sequence[str], index: int) -> str:
    """Return the name of a class; `class 7` if class 7 has no name."""
    return names[index] if 0 <= index < len(names) else f"class {index}"


def draw_boxes(
    image: ImageArray,
    boxes: npt.NDArray[np.floating],
    names: Sequence[str],
    *,
    show_names: bool = True,
    show_confidence: bool = True,
    line_width: int | None = None,
) -> ImageArray:
    """Draw detections with their class and confidence.

    Args:
        image: (H, W, 3) RGB; not changed.
        boxes: (n, 6) x1, y1, x2, y2 in pixels, confidence in [0, 1], class; as from
            `non_max_suppression`. Boxes are clipped to the image, and skipped if outside it.
        names: Class names; a class without a name is shown by its number.
        show_names: True to write the class, followed by the confidence, on each box.
        show_confidence: False to write no confidence, as for true boxes.
        line_width: Width of the lines, pixels, >= 1, limited to the image's longer side; None for a
            width that suits the image.

    Returns:
        A new (H, W, 3) image.

    Raises:
        ConfigError: `boxes` has another shape, or `line_width` is below 1.
    """
    if line_width is not None:
        at_least(1, line_width=line_width)
    if boxes.ndim != 2 or boxes.shape[1] != 6:
        raise ConfigError(f"boxes have shape {boxes.shape}; expected (n, 6)")
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    height, width = image.shape[:2]
    line = min(line_width or max(2, round(max(height, width) / 240)), max(height, width))
    font_size = max(11, round(max(height, width) / 34))
    names = drawable_names(names)
    # The most confident are drawn last, on top.
    for x1, y1, x2, y2, confidence, label in boxes[np.argsort(boxes[:, 4], kind="stable")]:
        left, right = np.clip((x1, x2), 0, width - 1)
        top, bottom = np.clip((y1, y2), 0, height - 1)
        if not (left < right and top < bottom):
            continue
        color = class_color(int(label))
        draw.rectangle((left, top, right, bottom), outline=color, width=line)
        if show_names:
            name = excerpt(printable(class_name(names, int(label))))
            text = f"{name} {confidence:.2f}" if show_confidence else name
            _tag(draw, (float(left), float(top)), text, font_for(text, font_size), color)
    return np.array(canvas)


def _tag(
    draw: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    text: str,
    font: Font,
    color: Color,
) -> None:
    """Write on a filled strip above the corner, moved to lie within the image."""
    _, _, text_width, text_height = draw.textbbox((0, 0), text, font=font, anchor="lt")
    gap = max(2, round(text_height / 3))
    width, height = text_width + 2 * gap, text_height + 2 * gap
    canvas_width, canvas_height = draw.im.size
    left = max(0, min(corner[0], canvas_width - width))
    top = max(0, min(corner[1] - height, canvas_height - height))
    draw.rectangle((left, top, left + width, top + height), fill=color)
    luminance = np.dot(color, (0.299, 0.587, 0.114))
    ink = _INK if luminance > 120 else _PAPER
    draw.text((left + gap, top + gap), text, fill=ink, font=font, anchor="lt")


def grid(images: Sequence[ImageArray], *, columns: int, captions: Sequence[str] = ()) -> ImageArray:
    """Lay images out in rows, on white, each under its caption.

    Args:
        images: (H, W, 3) images, row by row; all cells have the size of the largest.
        columns: Images per row, >= 1.
        captions: One caption per image; empty for none.

    Returns:
        One (H, W, 3) image.

    Raises:
        ConfigError: there is no image, `columns` is below 1, or the number of captions is neither 0
            nor that of the images.
    """
    if not images or columns < 1:
        raise ConfigError(
            f"{len(images)} images in {columns} columns; expected at least one of each"
        )
    if len(captions) not in (0, len(images)):
        raise ConfigError(
            f"{len(captions)} captions for {len(images)} images; expected one each, or none"
        )
    height = max(image.shape[0] for image in images)
    width = max(image.shape[1] for image in images)
    gap = max(4, round(width / 40))
    font_size = max(12, round(width / 22))
    head = round(1.6 * font_size) if captions else 0
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    size = gap + columns * (width + gap), gap + rows * (head + height + gap)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        left, top = gap + column * (width + gap), gap + row * (head + height + gap)
        if captions:
            middle = left + width / 2, top + head / 2
            caption = excerpt(printable(captions[index]))
            font = font_for(caption, font_size)
            draw.text(middle, caption, fill=_INK, font=font, anchor="mm")
        inset = (width - image.shape[1]) // 2, (height - image.shape[0]) // 2
        canvas.paste(Image.fromarray(image), (left + inset[0], top + head + inset[1]))
    return np.array(canvas)
