"""Detections in the formats that others read: YOLO label files, COCO's results, cut-outs."""

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

_CROP_GAIN, _CROP_PAD = 1.02, 10  # as YOLOv5 cuts out: a little more than the box
_JPEG_QUALITY = 95
_LEAST_SHARE = 5e-7  # of a side: less is written as 0.000000


def write_labels(
    path: Path, boxes: Boxes, source: tuple[int, int], *, with_confidence: bool = False
) -> None:
    """Write a YOLO label file: a line `class x y width height [confidence]` a box.

    Boxes too thin for the six digits of a share are left out: they could not be trained on.

    Args:
        path: file to write.
        boxes: (n, 6) x1, y1, x2, y2 in pixels of the image, confidence, class.
        source: height and width of the image, pixels.
        with_confidence: whether a line ends in it.

    Raises:
        ArtifactError: the file cannot be written.
    """
    height, width = source
    shares = to_centres(boxes) / (width, height, width, height)
    lines = []
    for (*_, confidence, label), row in zip(boxes.tolist(), shares.tolist(), strict=True):
        if min(row[2:]) < _LEAST_SHARE:
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
        image_id: of the image.
        category_ids: ids of the categories, by class; None for the class numbers themselves.
    """
    return [
        {
            "image_id": image_id,
            "category_id": int(label) if category_ids is None else category_ids[int(label)],
            "bbox": [round(value, 3) for value in (x1, y1, x2 - x1, y2 - y1)],
            "score": confidence,  # rounded, it would rank otherwise where others are near
        }
        for x1, y1, x2, y2, confidence, label in boxes.tolist()
    ]


def crop(image: ImageArray, box: Boxes) -> ImageArray:
    """Cut a box out of an image, with a margin of 2 % and 10 pixels.

    Args:
        image: (H, W, 3).
        box: x1, y1, x2, y2, ... in its pixels, clipped to it.

    Returns:
        (h, w, 3) of at least one pixel.
    """
    height, width = image.shape[:2]
    centre, size = (box[:2] + box[2:4]) / 2, (box[2:4] - box[:2]) * _CROP_GAIN + _CROP_PAD
    left, top = np.clip(np.floor(centre - size / 2), 0, (width - 1, height - 1)).astype(int)
    right, bottom = np.ceil(centre + size / 2).astype(int)
    return image[top : max(bottom, top + 1), left : max(right, left + 1)]


def write_image(path: Path, image: ImageArray) -> None:
    """Write (H, W, 3) RGB in the format that the suffix names.

    Raises:
        ArtifactError: the file cannot be written.
    """
    kind = FORMATS[path.suffix.lower()]
    options = {"quality": _JPEG_QUALITY} if kind in ("JPEG", "WEBP") else {}
    with new_file(path) as temporary:
        Image.fromarray(image).save(temporary, format=kind, **options)


def write_json(path: Path, values: Iterable[Any]) -> None:
    """Write a list, an entry a line; what is no UTF-8 in a file name as JSON's `\\udc..`.

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
    """A list like that of `write_json`, written value by value: none is kept in memory.

    Args:
        path: file to write; it is there, complete, after `finish`.

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
        """Remove what was written so far; does nothing after `finish`."""
        with contextlib.suppress(OSError):  # of what could not be written
            self._file.close()
        self._pending.abandon()

    def _failed(self, error: OSError) -> ArtifactError:
        return ArtifactError(f"{self._pending.target} cannot be written: {error}")
