"""Names of files, no longer than file systems take."""

from __future__ import annotations

import hashlib
import os

__all__ = ["fit_name"]

_LONGEST_NAME = 255  # bytes
_MARK = 12  # hexadecimal digits


def fit_name(stem: str, ending: str) -> str:
    """Return a file name's stem that is, with its ending, no longer than file systems take.

    One that is too long is cut, with a hash at its end, so that different ones stay different.
    """
    if len(stem) <= _LONGEST_NAME and len(os.fsencode(stem + ending)) <= _LONGEST_NAME:
        return stem
    mark = "~" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:_MARK]
    stem = stem[:_LONGEST_NAME]
    while stem and len(os.fsencode(stem + mark + ending)) > _LONGEST_NAME:
        stem = stem[:-1]
    return stem + mark
