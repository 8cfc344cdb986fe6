"""Detections in common formats: YOLO label files, COCO's results, crops."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from exportloss.errors import ArtifactError
from exportloss.runtime.evaluation.boxes import to_centres
from exportloss.runtime.images.load import FORMATS, ImageArray
from exportloss.runtime.storage.files import new_file
from exportloss.runtime.storage.pending_file import PendingFile

__all__ = [
    "Boxes",
    "JsonList",
    "coco_results",
    "crop",
    "write_image",
    "write_json",
    "write_labels",
]

Boxes = npt.NDArray[np.floating]

_CROP_GAIN, _CROP_PAD = 1.02, 10  # as in YOLOv5: a little more than the box
_JPEG_QUALITY = 95
_LEAST_FRACTION = 5e-7  # of a side; less is written as 0.000000


def write_labels(
    path: Path, boxes: Boxes, source: tuple[int, int], *, with_confidence: bool = False
) -> None:
    """Write a YOLO label file: one line `class x y width height [confidence]` per box.

    Boxes whose width or height would be written as 0.000000 are skipped: they could not be trained
    on.

    Args:
        path: File to write.
        boxes: (n, 6) x1, y1, x2, y2 in pixels of the image, confidence, class.
        source: (height, width) of the image, pixels.
        with_confidence: True to write the confidence at the end of each line.

    Raises:
        ArtifactError: the file cannot be written.
    """
    height, width = source
    fractions = to_centres(boxes) / (width, height, width, height)
    lines = []
    for (*_, confidence, label), row in zip(boxes.tolist(), fractions.tolist(), strict=True):
        if min(row[2:]) < _LEAST_FRACTION:
            continue
        values = [*row, confidence] if with_confidence else row
        lines.append(" ".join((str(int(label)), *(f"{value:.6f}" for value in values))) + "\n")
    with new_file(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def coco_results(
    boxes: Boxes, image_id: int | str, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Return the entries of COCO's results format, as pycocotools' `loadRes` takes them.

    Args:
        boxes: (n, 6) x1, y1, x2, y2 in pixels of the image, confidence, class.
        image_id: Id of the image.
        category_ids: Category id of each class; None to use the class numbers.
    """
    return [
        {
            "image_id": image_id,
            "category_id": int(label) if category_ids is None else category_ids[int(label)],
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": confidence,  # not rounded, which could change the ranking
        }
        for x1, y1, x2, y2, confidence, label in boxes.tolist()
    ]


def crop(image: ImageArray, box: Boxes) -> ImageArray:
    """Crop an image to a box that is enlarged by 2 % and 10 pixels.

    Args:
        image: (H, W, 3) image.
        box: (4 or more,) x1, y1, x2, y2, ... in pixels of the image, within it.

    Returns:
        (h, w, 3) of at least one pixel.
    """
    height, width = image.shape[:2]
    centre, size = (box[:2] + box[2:4]) / 2, (box[2:4] - box[:2]) * _CROP_GAIN + _CROP_PAD
    left, top = np.clip(np.floor(centre - size / 2), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.ceil(centre + size / 2).astype(int)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def write_image(path: Path, image: ImageArray) -> None:
    """Write an (H, W, 3) RGB image in the format of the path's suffix, one of `FORMATS`.

    Raises:
        ArtifactError: the file cannot be written.
    """
    kind = FORMATS[path.suffix.lower()]
    options = {"quality": _JPEG_QUALITY} if kind in ("JPEG", "WEBP") else {}
    with new_file(path) as temporary:
        Image.fromarray(image).save(temporary, format=kind, **options)


def write_json(path: Path, values: Iterable[Any]) -> None:
    """Write a JSON list, one entry per line; bytes of file names that are no UTF-8 as `\\udc..`.

    Raises:
        ArtifactError: the file cannot be written.
        ValueError: a number is infinite or NaN, which JSON has no notation for.
    """
    written = JsonList(path)
    try:
        for value in values:
            written.append(value)
        written.finish()
    except BaseException:
        written.abandon()
        raise


class JsonList:
    """A JSON list like that of `write_json`, written value by value without keeping any in memory.

    Args:
        path: File to write; it appears, complete, on `finish`.

    Raises:
        ArtifactError: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._pending = PendingFile(path)
        self._before = "["
        try:
            self._file = self._pending.path.open("w", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            self._pending.abandon()
            raise self._failed(error) from error

    def append(self, value: Any) -> None:
        """Add a value.

        Raises:
            ArtifactError: it cannot be written.
        """
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        try:
            self._file.write(f"{self._before}\n{text}")
        except OSError as error:
            raise self._failed(error) from error
        self._before = ","

    def finish(self) -> None:
        """Complete the file.

        Raises:
            ArtifactError: it cannot be written.
        """
        try:
            self._file.write("\n]\n" if self._before == "," else "[\n\n]\n")
            self._file.close()
        except OSError as error:
            self.abandon()
            raise self._failed(error) from error
        self._pending.complete()

    def abandon(self) -> None:
        """Discard what was written so far; no-op after `finish`."""
        with contextlib.suppress(OSError):  # from the rest of a failed write
            self._file.close()
        self._pending.abandon()

    def _failed(self, error: OSError) -> ArtifactError:
        return ArtifactError(f"{self._pending.target} cannot be written: {error}")
