"""JPEG files that are complete except for their end marker (EOI).

Some converters, and cameras that lose power, do not write it. Pillow refuses such files as
truncated; with a marker appended, libjpeg only warns and fills missing pixels with grey. So a file
is decoded with several endings: if all pixels come before the end, no ending changes any of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["MAX_JPEG_BYTES", "endings"]

MAX_JPEG_BYTES = 1 << 26  # largest file that is read into memory to be completed

_END = b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SOS = 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_RESTARTS = range(0xD0, 0xD8)
_BARE = frozenset((0x01, 0xD8, *_RESTARTS))  # markers without a length
_COEFFICIENTS = 64
# Fixed bits that decode to anything but a flat area, and their inverse. No byte is 0xFF, which
# would begin a marker.
_BITS = bytes((index * index * 151 + index * 77 + 90) % 254 + 1 for index in range(96))
_INVERTED = bytes(255 - byte for byte in _BITS)


def endings(content: bytes) -> tuple[bytes, ...]:
    """Complete a JPEG without end marker in several ways.

    Args:
        content: Bytes of the file.

    Returns:
        The file with the marker, then variants with more data before it. The file was complete if
        and only if all of them decode to the same pixels. Empty if whole scans are missing, or the
        file is no JPEG.
    """
    if not _has_all_scans(content):
        return ()
    whole = content.rstrip(b"\xff")  # the last byte may be the first half of the marker
    restart = _next_restart(whole)
    tails = b"", _BITS, _INVERTED, restart + _BITS, restart + _INVERTED
    return tuple(whole + tail + _END for tail in tails)


def _has_all_scans(content: bytes) -> bool:
    """Return whether the scans hold every bit of every coefficient of every component."""
    missing: dict[int, set[int]] = {}
    at = 2
    while (found := _next_marker(content, at)) is not None:
        marker, at = found
        if marker in _BARE:
            continue
        length = int.from_bytes(content[at : at + 2], "big")
        segment = content[at + 2 : at + length]
        if len(segment) != length - 2:
            return False
        if marker in _FRAMES:
            missing = {component: set(range(_COEFFICIENTS)) for component in segment[6::3]}
        elif marker == _SOS and not _take_scan(segment, missing):
            return False
        at += length
    return bool(missing) and not any(missing.values())


def _next_marker(content: bytes, at: int) -> tuple[int, int] | None:
    """Return the next marker, skipping stuffed and fill bytes, and the offset after it."""
    found = _MARKER.search(content, at)
    return None if found is None else (content[found.end() - 1], found.end())


def _take_scan(segment: bytes, missing: Mapping[int, set[int]]) -> bool:
    """Remove the coefficients of a scan from `missing`; return whether its header is complete."""
    count = segment[0] if segment else 0
    if len(segment) != 2 * count + 4:
        return False
    first, last, precision = segment[-3:]
    if precision & 15 == 0:  # the scan with the lowest bits
        for component in segment[1 : 2 * count + 1 : 2]:
            missing.get(component, set()).difference_update(range(first, last + 1))
    return True


def _next_restart(content: bytes) -> bytes:
    """Return the restart marker that would come next."""
    at = max(content.rfind(bytes((0xFF, marker))) for marker in _RESTARTS)
    last = content[at + 1] & 7 if at >= 0 else 7
    return bytes((0xFF, _RESTARTS[(last + 1) % 8]))
