"""Texts that contain the sha256 of their other bytes, so that damage to any bit is noticed.

A checksum is not a signature: it detects a damaged file, not a forged one.
"""

from __future__ import annotations

import hashlib

__all__ = ["add_text_checksum", "text_is_whole"]

_KEY = "sha256"
_EMPTY = f'"{_KEY}": ""'  # in JSON


def add_text_checksum(text: str) -> str:
    """Fill in the empty value of the first `"sha256": ""` in a JSON text."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text.replace(_EMPTY, f'"{_KEY}": "{digest}"', 1)


def text_is_whole(content: bytes, digest: object) -> bool:
    """Return whether a file is a text that `add_text_checksum` wrote, unchanged.

    Args:
        content: Content of the file.
        digest: Value of its key `sha256`.
    """
    rest = content.replace(str(digest).encode(), b"", 1)
    return hashlib.sha256(rest).hexdigest() == digest
