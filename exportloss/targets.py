"""Target rows on the host: checked, then padded to the number of rows that the graph takes."""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from exportloss.bounds import at_least
from exportloss.errors import TargetError, TooManyTargetsError, listed

__all__ = ["pad_targets"]

COLUMNS = ("image", "class", "x", "y", "width", "height")
_MAX_NAMED_ROWS = 20


@overload
def pad_targets(
    rows: npt.ArrayLike,
    max_targets: int,
    *,
    batch_size: int,
    num_classes: int,
    overflow: Literal["raise"] = "raise",
) -> npt.NDArray[np.float32]: ...
@overload
def pad_targets(
    rows: npt.ArrayLike,
    max_targets: int,
    *,
    batch_size: int,
    num_classes: int,
    overflow: Literal["keep_largest"],
) -> tuple[npt.NDArray[np.float32], int]: ...
def pad_targets(
    rows: npt.ArrayLike,
    max_targets: int,
    *,
    batch_size: int,
    num_classes: int,
    overflow: Literal["raise", "keep_largest"] = "raise",
) -> npt.NDArray[np.float32] | tuple[npt.NDArray[np.float32], int]:
    """Check target rows and pad them with zero rows, which match nothing.

    The kept rows stay in their order: it decides who wins a shared cell.

    Args:
        rows: (n, 6) numbers: image index in [0, batch_size), class in [0, num_classes), then
            centre x, centre y, width and height, each a fraction of the image's size in [0, 1].
        max_targets: Number of rows of the result, >= 1.
        batch_size: Images per batch, >= 1.
        num_classes: Number of classes, >= 1.
        overflow: Policy for more rows than `max_targets`: raise an error, or keep the rows of
            largest area (the earlier one if areas are equal).

    Returns:
        (max_targets, 6) float32; with `overflow="keep_largest"`, that array and the number of
        rows dropped.

    Raises:
        TargetError: a row cannot be trained on, or an argument is out of range. The message names
            the bad rows and the reason for each.
        TooManyTargetsError: there are more rows than `max_targets`.
    """
    counts = {"max_targets": max_targets, "batch_size": batch_size, "num_classes": num_classes}
    at_least(1, TargetError, **counts)
    if overflow not in ("raise", "keep_largest"):
        raise TargetError(f"overflow is {overflow!r}; expected 'raise' or 'keep_largest'")

    checked = _checked(rows, batch_size, num_classes)  # (n, 6)
    dropped = max(len(checked) - max_targets, 0)
    if dropped and overflow == "raise":
        raise TooManyTargetsError(
            f"got {len(checked)} target rows, expected at most max_targets, {max_targets}; export "
            "with a larger max_targets, or drop the smallest boxes with pad_targets(..., "
            'overflow="keep_largest")'
        )
    if dropped:
        by_area = np.argsort(-checked[:, 4] * checked[:, 5], kind="stable")
        checked = checked[np.sort(by_area[:max_targets])]

    padded = np.zeros((max_targets, 6), np.float32)
    padded[: len(checked)] = checked
    return (padded, dropped) if overflow == "keep_largest" else padded


def _checked(rows: npt.ArrayLike, batch_size: int, num_classes: int) -> npt.NDArray[np.float64]:
    try:
        array = np.asarray(rows)
    except ValueError as error:  # rows of unequal length
        raise TargetError(f"target rows are ragged ({error}); expected shape (n, 6)") from error
    if array.size == 0 and array.ndim <= 2:
        return np.zeros((0, 6))
    if array.dtype.kind not in "fiu":
        raise TargetError(f"target rows have type {array.dtype}; expected numbers (float32)")
    if array.ndim != 2 or array.shape[1] != 6:
        raise TargetError(
            f"target rows have shape {array.shape}; expected (n, 6) with columns "
            + ", ".join(COLUMNS)
        )
    array = array.astype(np.float64)
    if problems := [
        f"row {index}: {problem}"
        for index in np.flatnonzero(_is_bad(array, batch_size, num_classes))
        for problem in [_problem(array[index], batch_size, num_classes)]
    ]:
        raise TargetError(
            f"{len(problems)} of {len(array)} target rows cannot be trained on:\n  "
            + listed(problems, _MAX_NAMED_ROWS, "\n  ")
        )
    return array


def _is_bad(
    rows: npt.NDArray[np.float64], batch_size: int, num_classes: int
) -> npt.NDArray[np.bool_]:
    """Return which rows `_problem` rejects; vectorised, as every batch is checked.  # (n,)"""
    with np.errstate(invalid="ignore"):  # NaN compares false, so it is bad
        index = rows[:, :2]
        good = (index >= 0) & (index < (batch_size, num_classes)) & (np.trunc(index) == index)
        boxes = (rows[:, 2:] >= 0) & (rows[:, 2:] <= 1)
    bad: npt.NDArray[np.bool_] = ~(good.all(axis=1) & boxes.all(axis=1))
    return bad


def _problem(row: npt.NDArray[np.float64], batch_size: int, num_classes: int) -> str:
    """Describe what is wrong with a row that `_is_bad` found."""
    for column, value in zip(COLUMNS, row.tolist(), strict=True):
        if not np.isfinite(value):
            return f"{column} is {value}; expected a finite number"
        if column in ("image", "class"):
            limit = batch_size if column == "image" else num_classes
            if value != int(value):
                return f"{column} is {value}; expected a whole number"
            if not 0 <= value < limit:
                return f"{column} is {int(value)}; expected 0 to {limit - 1}"
        elif not 0 <= value <= 1:
            kind = "negative" if value < 0 else "over 1"
            return f"{column} is {value:g}, {kind}; expected a fraction of the image, 0 to 1"
    raise AssertionError("unreachable: _is_bad and _problem disagree")
