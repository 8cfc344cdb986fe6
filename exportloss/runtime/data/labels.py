"""Label files in YOLO format: one object per line, `class x y width height` or a polygon."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exportloss.errors import DataError, excerpt, listed
from exportloss.reading import read_bounded
from exportloss.runtime.data.walking import describe_entry

__all__ = [
    "MAX_LABEL_BYTES",
    "MAX_LABEL_LINES",
    "LabelArray",
    "parse_labels",
    "read_label_file",
    "read_labels",
    "refuse",
]

LabelArray = npt.NDArray[np.float32]

MAX_LABEL_BYTES = 1 << 22  # per file
MAX_LABEL_LINES = 20_000

_COLUMNS = ("class", "x", "y", "width", "height")
_LISTED = 20
_BEYOND = 0.1  # fraction of the image that polygons may reach outside; tools write such outlines
# A positive size below this is zero, or nearly so, as float32.
_SMALLEST = float(np.finfo(np.float32).tiny)


def read_labels(path: str | Path, num_classes: int) -> LabelArray:
    """Read one label file.

    A byte order mark, Windows line ends and blank lines are accepted. As in YOLOv5, a polygon,
    `class x1 y1 x2 y2 x3 y3 ...`, becomes the box around the part of it that is in the image,
    duplicate lines count once, and values are read as float32, so that 1.00000004 is 1.

    Args:
        path: Label file; a missing or empty one means an image without objects.
        num_classes: Number of classes; class numbers lie in [0, num_classes).

    Returns:
        (n, 5) rows class, x, y, width, height; x, y is the box's centre; all four are fractions of
        the image's width and height in [0, 1], sizes above 0.

    Raises:
        DataError: the file is larger than `MAX_LABEL_BYTES`, or has bad lines; the message lists
            them as `file:line: what`, the first twenty in full.
    """
    path = Path(path)
    labels, problems = parse_labels(path, read_label_file(path) or b"", num_classes)
    refuse(problems)
    return labels


def read_label_file(path: Path) -> bytes | None:
    """Read the bytes of a label file; None if there is no file.

    Raises:
        DataError: the file is larger than `MAX_LABEL_BYTES`, cannot be read, or is a broken link.
    """
    try:
        return read_bounded(path, MAX_LABEL_BYTES, error=DataError)
    except FileNotFoundError as error:
        if os.path.islink(path):  # noqa: PTH114 - a broken link meant labels, not their absence
            raise DataError(f"{path}: {describe_entry(path)}; repair or remove it") from error
        return None


def parse_labels(
    path: Path, content: bytes, num_classes: int
) -> tuple[LabelArray, tuple[str, ...]]:
    """Parse the bytes of a label file; `path` is for messages.

    Returns:
        The good rows as from `read_labels`, and `file:line: what` for every bad line.
    """
    rows: dict[tuple[float, ...], None] = {}  # in order, each once
    problems: list[str] = []
    # Bytes that are no UTF-8 become characters that are no number, so that their line is bad.
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", errors="replace")
    for number, line in enumerate(lines, start=1):
        if number > MAX_LABEL_LINES:
            problems.append(
                f"{path}:{number}: more than {MAX_LABEL_LINES} lines; expected a label file"
            )
            break
        if not (columns := line.split()):
            continue
        try:
            rows[tuple(_parse_row(columns, num_classes))] = None
        except ValueError as error:
            problems.append(f"{path}:{number}: {error}")
    return np.array(list(rows), dtype=np.float32).reshape(-1, 5), tuple(problems)


def refuse(problems: Sequence[str]) -> None:
    """Raise a DataError that lists problems, if any, the first twenty in full.

    Args:
        problems: Texts of the form `file: what` or `file:line: what`.
    """
    if not problems:
        return
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    raise DataError(
        f"{count} in the data set; correct or remove these files, or skip them "
        '(on_bad="skip"):\n' + listed(problems, _LISTED, "\n"),
        argument="skip_bad",
    )


def _parse_row(columns: Sequence[str], num_classes: int) -> list[float]:
    is_polygon = len(columns) >= 7 and len(columns) % 2 == 1
    if len(columns) != 5 and not is_polygon:
        raise ValueError(
            f"{len(columns)} columns, expected 5 ({' '.join(_COLUMNS)}), or a class and the "
            "points of a polygon"
        )
    names = ("class", *("x", "y") * (len(columns) // 2)) if is_polygon else _COLUMNS
    row = [_number(name, text) for name, text in zip(names, columns, strict=True)]
    if row[0] != int(row[0]) or not 0 <= row[0] < num_classes:
        raise ValueError(
            f"class {excerpt(columns[0])}, expected a whole number in [0, {num_classes})"
        )
    if is_polygon:
        _check_fractions(names[1:], row[1:], beyond=_BEYOND)
        points = [min(max(value, 0.0), 1.0) for value in row[1:]]
        row = [row[0], *_box_around(points[0::2], points[1::2])]
    for name, value in zip(_COLUMNS[3:], row[3:], strict=True):
        if value < _SMALLEST:
            raise ValueError(f"{name} {value:g}, expected a size above 0")
    _check_fractions(_COLUMNS[1:], row[1:])
    return row


def _check_fractions(names: Sequence[str], values: Sequence[float], *, beyond: float = 0.0) -> None:
    """Refuse values outside [0, 1], apart from `beyond` and rounding to float32."""
    for name, value in zip(names, values, strict=True):
        if not -beyond <= np.float32(value) <= 1 + beyond:
            raise ValueError(f"{name} {value:.9g}, expected a fraction of the image in [0, 1]")


def _box_around(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float, float]:
    left, right, top, bottom = min(x), max(x), min(y), max(y)
    return (left + right) / 2, (top + bottom) / 2, right - left, bottom - top


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} {text[:40]!a} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} {excerpt(text)} is not finite")
    return value
