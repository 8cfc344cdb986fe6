"""Detectors other than YOLOv5's, recognized by their outputs and metadata.

They run, and their outputs could be read as boxes, but wrong ones. So they are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exportloss.errors import ArtifactError

__all__ = ["refuse_other_detectors"]

Shape = Sequence[int | str | None]

_STRIDES = ((8, 16, 32), (8, 16, 32, 64))
_MOST_FINAL = 1000  # most rows of a file that ends in non-maximum suppression, or needs none
_FINAL = (100, 300, 1000)  # usual numbers of such rows: x1, y1, x2, y2, confidence, class
_TASKS = {
    "segment": "a segmentation model",
    "classify": "a classifier",
    "pose": "a pose model",
    "obb": "a detector of rotated boxes",
}
_ANCHOR_FREE = "an anchor-free detector (YOLOv8 or later, or YOLOv5u)"
_END_TO_END = "an end-to-end detector, with non-maximum suppression in it"


def refuse_other_detectors(
    path: str,
    outputs: Sequence[Shape],
    *,
    names: Sequence[str],
    image_size: tuple[int, int] | None,
    metadata: Mapping[str, str],
) -> None:
    """Refuse another kind of detector, judged by outputs, classes and metadata.

    Args:
        path: Path of the file, for the message.
        outputs: Shapes of the outputs; a dynamic side is no int.
        names: Class names; empty if the file does not state them.
        image_size: (height, width) of the input; None if they are dynamic.
        metadata: Metadata of the file.

    Raises:
        ArtifactError: the detector is of another kind, or its columns do not match its classes.
    """
    _, rows, columns = outputs[0]
    kind = _TASKS.get(metadata.get("task", ""))
    if metadata.get("end2end", "").lower() == "true":
        kind = kind or _END_TO_END
    if any(len(shape) == 4 for shape in outputs[1:]) and _has_masks(columns, names):
        kind = kind or _TASKS["segment"]
    expected = 5 + len(names)
    if (
        kind is None
        and isinstance(columns, int)
        and _is_anchor_free(rows, columns, names, image_size)
    ):
        kind = _ANCHOR_FREE
    if kind is None and columns == 6 and _is_final(rows, image_size):
        kind = _END_TO_END
    if kind is None and names and isinstance(columns, int) and columns != expected:
        kind = f"of {columns - 5} classes by its columns and {len(names)} by their names"
        if columns == 6 and isinstance(rows, int) and rows <= _MOST_FINAL:
            kind = _END_TO_END
    if kind is not None:
        raise ArtifactError(
            f"{path} is {kind}: it gives {list(outputs[0])} where a YOLOv5 detector of "
            f"{len(names) or 'n'} classes gives (B, N, {expected if names else '5 + n'}); export "
            "one with YOLOv5's export.py or with exportloss"
        )


def _has_masks(columns: int | str | None, names: Sequence[str]) -> bool:
    """Return whether the columns are not a detector's, so that they hold mask coefficients."""
    return not names or columns != 5 + len(names)


def _is_anchor_free(
    rows: int | str | None,
    columns: int | str | None,
    names: Sequence[str],
    image_size: tuple[int, int] | None,
) -> bool:
    """Return whether the output has one column per cell, and rows for 4 sides and the classes."""
    if names and columns == 5 + len(names):
        return False
    if names and rows == 4 + len(names):
        return True
    if image_size is None or not isinstance(rows, int) or not isinstance(columns, int):
        return False
    return columns in _cells(image_size) and rows <= columns  # YOLOv5 has three rows per cell


def _is_final(rows: int | str | None, image_size: tuple[int, int] | None) -> bool:
    """Return whether six columns are a box, its confidence and its class, not those of one class.

    A YOLOv5 detector has three rows per cell, which its input size tells.
    """
    if image_size is None or rows not in _FINAL:
        return False
    return rows not in {3 * count for count in _cells(image_size)}


def _cells(image_size: tuple[int, int]) -> set[int]:
    """Return the numbers of cells of all levels that a detector of this input size can have."""
    height, width = image_size
    return {sum((height // s) * (width // s) for s in strides) for strides in _STRIDES}
