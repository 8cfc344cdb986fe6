"""Detectors that are not YOLOv5's: what gives them away, and what they are called.

They run, and what they give can be read as boxes; it would be garbage. So they are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exportloss.errors import ArtifactError

__all__ = ["refuse_other_detectors"]

Shape = Sequence[int | str | None]

_STRIDES = ((8, 16, 32), (8, 16, 32, 64))
_MOST_FINAL = 1000  # rows of a file that ends in non-maximum suppression, or needs none
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
    """Refuse what is another kind of detector by its outputs, its classes or its metadata.

    Args:
        path: of the file, for the message.
        outputs: shapes; a dynamic side is no number.
        names: the classes; empty where the file does not say.
        image_size: height and width of the input; None where they are dynamic.
        metadata: of the file.

    Raises:
        ArtifactError: it is another kind, or has other columns than its classes ask for.
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
    """Whether there are more columns than a detector's: coefficients of masks."""
    return not names or columns != 5 + len(names)


def _is_anchor_free(
    rows: int | str | None,
    columns: int | str | None,
    names: Sequence[str],
    image_size: tuple[int, int] | None,
) -> bool:
    """Whether the file has a column for each cell, and rows of 4 sides and classes."""
    if names and columns == 5 + len(names):
        return False
    if names and rows == 4 + len(names):
        return True
    if image_size is None or not isinstance(rows, int) or not isinstance(columns, int):
        return False
    height, width = image_size
    cells = {sum((height // s) * (width // s) for s in strides) for strides in _STRIDES}
    return columns in cells and rows <= columns  # YOLOv5 has three rows for each cell
