"""Checks of the values in a COCO file's entries."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from exportloss.errors import DataError, excerpt
from exportloss.runtime.images.load import FORMATS

__all__ = ["name_problem", "read_box", "refuse_same_names"]

_LONGEST_PATH = 4096  # characters


def read_box(value: object) -> tuple[float, ...]:
    """Return the four numbers of a `bbox`: left, top, width, height, pixels.

    Raises:
        ValueError: it is no list of four finite numbers, or a side is negative; an empty box, with
            a side of 0, passes.
    """
    if not isinstance(value, list) or len(value) != 4:
        raise ValueError(f"`bbox` is {excerpt(ascii(value))}; expected [x, y, width, height]")
    for number in value:
        # Also refuses integers beyond float64, which would overflow.
        if type(number) not in (int, float) or not abs(number) < 1e300:
            raise ValueError(
                f"`bbox` holds {excerpt(ascii(number))}; expected finite numbers, in pixels"
            )
    if min(value[2:]) < 0:
        raise ValueError(f"`bbox` is {excerpt(ascii(value))}; expected a width and height above 0")
    return tuple(map(float, value))


def name_problem(name: object) -> str:
    """Return why a `file_name` cannot be used; empty if it can."""
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_PATH or not _can_be_named(name):
        return "is no path; expected one relative to the folder of the images"
    if PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        return "is absolute; expected a path relative to the folder of the images"
    if ".." in (*PurePosixPath(name).parts, *PureWindowsPath(name).parts):
        return "leads out of its folder; expected a path without `..`"
    if PurePosixPath(name).suffix.lower() not in FORMATS:
        return f"is no image of a known format; expected {' '.join(sorted(FORMATS))}"
    return ""


def _can_be_named(name: str) -> bool:
    try:
        return b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # a lone surrogate
        return False


def refuse_same_names(path: Path, categories: Mapping[int, str]) -> None:
    """Refuse categories, names by id, of which two have the same name.

    Raises:
        DataError: two have; the message names both.
    """
    first: dict[str, int] = {}
    for number, name in categories.items():
        if (other := first.setdefault(name, number)) != number:
            raise DataError(
                f"{path}: categories {other} and {number} are both named {excerpt(repr(name))}; "
                "give each its own name"
            )
