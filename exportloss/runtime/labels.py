"""Label files in YOLO format: a line an object, `class x y width height`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from exportloss.errors import DataError
from exportloss.runtime.dataset import Dataset

__all__ = ["LabelArray", "check_dataset", "read_labels"]

LabelArray = npt.NDArray[np.float32]

_COLUMNS = ("class", "x", "y", "width", "height")
_LISTED = 20
# A positive size below this is zero, or nearly so, as float32.
_SMALLEST = float(np.finfo(np.float32).tiny)


def read_labels(path: str | Path, num_classes: int) -> LabelArray:
    """Read one label file.

    A byte order mark, Windows line ends and blank lines are accepted.

    Args:
        path: the label file; a missing or empty one is a picture without objects.
        num_classes: classes are whole numbers in [0, num_classes).

    Returns:
        (n, 5) rows class, x, y, width, height; x, y the box's centre; all four in [0, 1] as
        shares of the picture's width and height, sizes above 0.

    Raises:
        DataError: names every bad line as `file:line: what`, the first twenty of them in full.
    """
    labels, problems = _parse(Path(path), num_classes)
    _refuse(problems)
    return labels


def check_dataset(dataset: Dataset) -> tuple[LabelArray, ...]:
    """Read the labels of every picture, before anything is spent on training.

    Returns:
        One array a picture, as from `read_labels`, in the order of `dataset.images`.

    Raises:
        DataError: names the bad lines of all files in one message, the first twenty in full; or
            no picture has a label file, which means that they lie elsewhere.
    """
    labels: list[LabelArray] = []
    problems: list[str] = []
    for path in dataset.labels:
        rows, bad = _parse(path, dataset.num_classes)
        labels.append(rows)
        problems += bad
    _refuse(problems)
    if not any(map(len, labels)) and not any(path.exists() for path in dataset.labels):
        raise DataError(
            f"none of {len(dataset)} pictures has a label file; the labels of "
            f"{dataset.images[0]} were looked for in {dataset.labels[0]}; put them there (an "
            "empty file for a picture without objects)"
        )
    return tuple(labels)


def _parse(path: Path, num_classes: int) -> tuple[LabelArray, list[str]]:
    """Return the good rows, and a `file:line: what` for every bad one."""
    rows: list[list[float]] = []
    problems: list[str] = []
    try:
        # Bytes that are no text become characters that are no number: the line is named below.
        with path.open(encoding="utf-8-sig", errors="replace") as lines:
            for number, line in enumerate(lines, start=1):
                if not (columns := line.split()):
                    continue
                try:
                    rows.append(_parse_row(columns, num_classes))
                except ValueError as error:
                    problems.append(f"{path}:{number}: {error}")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise DataError(f"{path}: the label file cannot be read: {error}") from error
    return np.array(rows, dtype=np.float32).reshape(-1, 5), problems


def _parse_row(columns: Sequence[str], num_classes: int) -> list[float]:
    if len(columns) != 5:
        hint = "; convert polygons to boxes" if len(columns) > 6 else ""
        raise ValueError(f"{len(columns)} columns, expected 5 ({' '.join(_COLUMNS)}){hint}")
    row = [_number(name, text) for name, text in zip(_COLUMNS, columns, strict=True)]
    if row[0] != int(row[0]) or not 0 <= row[0] < num_classes:
        raise ValueError(f"class {columns[0]}, expected a whole number in [0, {num_classes})")
    for name, text, value in zip(_COLUMNS[3:], columns[3:], row[3:], strict=True):
        if value < _SMALLEST:
            raise ValueError(f"{name} {text}, expected a size above 0")
    for name, text, value in zip(_COLUMNS[1:], columns[1:], row[1:], strict=True):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} {text}, expected a share of the picture in [0, 1]")
    return row


def _number(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name} {text[:40]!a} is not a number") from None
    if not math.isfinite(value):
        raise ValueError(f"{name} {text} is not finite")
    return value


def _refuse(problems: Sequence[str]) -> None:
    if not problems:
        return
    count = "1 bad label line" if len(problems) == 1 else f"{len(problems)} bad label lines"
    more = f"\nand {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    listing = "\n".join(problems[:_LISTED])
    raise DataError(f"{count}; correct or remove what is named here:\n{listing}{more}")
