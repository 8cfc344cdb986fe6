"""The images of a batch in a grid, with their boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from exportloss.runtime.data.loader import Batch
from exportloss.runtime.drawing.draw import draw_boxes, grid
from exportloss.runtime.evaluation.nms import suppress
from exportloss.runtime.images.resize import ImageArray
from exportloss.runtime.storage.files import new_file

__all__ = ["draw_batch", "surest", "write_batch"]

_MOST = 16  # images, as in YOLOv5
_LEAST_SIDE, _WHOLE_SIDE = 320, 1920  # pixels: of an image, to keep names legible; of the grid
_SURE, _OVERLAP = 0.25, 0.45  # confidence and IoU, as for `detect`
_CAPTION = 36  # characters
_JPEG_QUALITY = 90


def draw_batch(
    batch: Batch,
    boxes: Sequence[npt.NDArray[np.float32]],
    names: Sequence[str],
    *,
    show_confidence: bool = True,
) -> ImageArray:
    """Draw boxes on the first sixteen images of a batch, under their file names.

    Args:
        batch: Batch of `Batches`.
        boxes: One (n, 6) array per image: x1, y1, x2, y2 (pixels of the batch), confidence, class,
            as from `true_boxes` or `BatchDetections.on_canvas`. Images without an array are not
            drawn.
        names: Class names.
        show_confidence: True to write the confidence after the class.

    Returns:
        (H, W, 3) image.
    """
    shown = list(zip(batch.images, boxes, batch.paths, strict=False))[:_MOST]
    columns = math.ceil(math.sqrt(len(shown)))
    height, width = batch.images.shape[2:]
    longest = max(height, width)
    scale = np.clip(longest, _LEAST_SIDE, max(_LEAST_SIDE, _WHOLE_SIDE // columns)) / longest
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    factors = np.array((size[0] / width, size[1] / height) * 2 + (1, 1), np.float32)
    cells = []
    for image, rows, _ in shown:
        resized = Image.fromarray(image.transpose(1, 2, 0)).resize(size, Image.Resampling.LANCZOS)
        cells.append(
            draw_boxes(np.asarray(resized), rows * factors, names, show_confidence=show_confidence)
        )
    captions = [_caption(path) for _, _, path in shown]
    return grid(cells, columns=columns, captions=captions)


def surest(boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the detections of a validation that are worth showing.

    These exceed confidence 0.25; of boxes that overlap by more than IoU 0.45, whatever their
    classes, only the most confident is kept.
    """
    return suppress(boxes[boxes[:, 4] > _SURE], _OVERLAP, agnostic=True)


def write_batch(
    path: Path,
    batch: Batch,
    boxes: Sequence[npt.NDArray[np.float32]],
    names: Sequence[str],
    *,
    show_confidence: bool = True,
) -> None:
    """Write `draw_batch` as a JPEG file, such as `val_batch0_pred.jpg`.

    Raises:
        ArtifactError: the file cannot be written.
    """
    image = draw_batch(batch, boxes, names, show_confidence=show_confidence)
    with new_file(path) as temporary:
        Image.fromarray(image).save(temporary, format="jpeg", quality=_JPEG_QUALITY)


def _caption(path: Path) -> str:
    name = path.name
    return name if len(name) <= _CAPTION else f"...{name[3 - _CAPTION :]}"
