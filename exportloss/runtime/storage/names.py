"""File names no longer than file systems allow."""

from __future__ import annotations

import hashlib
import os

__all__ = ["fit_name"]

_LONGEST_NAME = 255  # bytes
_MARK = 12  # hexadecimal digits


def fit_name(stem: str, ending: str) -> str:
    """Return a file name's stem that fits file systems together with its ending.

    A stem that is too long is cut and ends with a hash, so that different stems stay different.
    """
    if len(stem) <= _LONGEST_NAME and len(os.fsencode(stem + ending)) <= _LONGEST_NAME:
        return stem
    mark = "~" + hashlib.sha256(os.fsencode(stem)).hexdigest()[:_MARK]
    stem = stem[:_LONGEST_NAME]
    while stem and len(os.fsencode(stem + mark + ending)) > _LONGEST_NAME:
        stem = stem[:-1]
    return stem + mark
